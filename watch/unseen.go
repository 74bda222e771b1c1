package watch

import "slices"

// unseen are the claims that live and that nobody visible holds, by whose they are. It belongs to the loop; due and what changes it want
// w.mu held, for whose a claim is.
//
// Any exit may be that of who held the socket, so some are probed again at each exit: those first that it most likely concerns, and so few
// that nobody's claims make the exits of others slow. Each has its back-off beside that.
type unseen struct {
	trees map[*Owner]*turns[*Claim]
	users map[uint32]*turns[*Claim]
	order turns[uint32] // of the users
}

// So many are probed again at an exit.
const (
	unseenOwn    = 32 // of the same tree and the same user
	unseenOthers = 8  // of all other users
)

func (u *unseen) add(c *Claim) {
	if u.users == nil {
		u.trees, u.users = map[*Owner]*turns[*Claim]{}, map[uint32]*turns[*Claim]{}
	}
	o := c.owner
	enter(u.trees, o.top(), c)
	enter(u.users, o.uid, c)
	u.order.add(o.uid)
}

func (u *unseen) remove(c *Claim) {
	if u.len() == 0 {
		return
	}
	o := c.owner
	leave(u.trees, o.top(), c)
	if leave(u.users, o.uid, c) {
		u.order.remove(o.uid)
	}
}

// len is the number of users that have any.
func (u *unseen) len() int { return len(u.order.items) }

func (u *unseen) all() []*Claim {
	var all []*Claim
	for _, t := range u.users {
		all = append(all, t.items...)
	}
	return all
}

// due gives what is to be probed after the exit of an owner, or of who held the sockets of one.
func (u *unseen) due(o *Owner) []*Claim {
	if u.len() == 0 {
		return nil
	}
	due := u.trees[o.top()].take(unseenOwn)
	more := func(some []*Claim) {
		for _, c := range some {
			if !slices.Contains(due, c) {
				due = append(due, c)
			}
		}
	}
	more(u.users[o.uid].take(unseenOwn - len(due)))
	each := max(1, unseenOthers/u.len())
	for _, user := range u.order.take(unseenOthers) {
		if user != o.uid {
			more(u.users[user].take(each))
		}
	}
	return due
}

func enter[K comparable](m map[K]*turns[*Claim], k K, c *Claim) {
	if m[k] == nil {
		m[k] = &turns[*Claim]{}
	}
	m[k].add(c)
}

// leave is the opposite of enter. It tells whether there is none left.
func leave[K comparable](m map[K]*turns[*Claim], k K, c *Claim) (last bool) {
	t := m[k]
	if t == nil {
		return false
	}
	t.remove(c)
	if len(t.items) > 0 {
		return false
	}
	delete(m, k)
	return true
}

// turns gives out its items in turn, some at a time.
type turns[T comparable] struct {
	items []T
	at    map[T]int
	next  int
}

func (t *turns[T]) add(item T) {
	if _, ok := t.at[item]; ok {
		return
	}
	if t.at == nil {
		t.at = map[T]int{}
	}
	t.at[item] = len(t.items)
	t.items = append(t.items, item)
}

func (t *turns[T]) remove(item T) {
	i, ok := t.at[item]
	if !ok {
		return
	}
	last := len(t.items) - 1
	t.items[i] = t.items[last]
	t.at[t.items[i]] = i
	t.items = slices.Delete(t.items, last, last+1)
	delete(t.at, item)
}

// take gives at most n items, none twice. Of nil turns there are none.
func (t *turns[T]) take(n int) []T {
	if t == nil {
		return nil
	}
	some := make([]T, 0, max(0, min(n, len(t.items))))
	for range cap(some) {
		t.next %= len(t.items)
		some = append(some, t.items[t.next])
		t.next++
	}
	return some
}
