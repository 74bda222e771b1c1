package watch

import (
	"slices"
	"testing"
)

// TestUnseenAreFew: however many claims wait for somebody's exit, one exit has few of them probed, its own first, and all have their turn.
func TestUnseenAreFew(t *testing.T) {
	const many = 500
	var u unseen
	owner := func(uid uint32, claims int) *Owner {
		o := &Owner{uid: uid}
		for range claims {
			o.claims = append(o.claims, newClaim(o, "", SourceNotify))
			u.add(o.claims[len(o.claims)-1])
		}
		return o
	}
	crowd, victim, stranger := owner(1, many), owner(2, 2), owner(3, 0)
	kin := &Owner{uid: 3, root: victim}

	probed := map[*Claim]bool{}
	for range many {
		due := u.due(stranger)
		if len(due) > unseenOthers {
			t.Fatalf("%d are probed at a stranger's exit", len(due))
		}
		for _, c := range due {
			probed[c] = true
		}
	}
	if len(probed) != many+2 {
		t.Errorf("%d of %d were ever probed at the exits of others", len(probed), many+2)
	}
	for name, o := range map[string]*Owner{"user": {uid: 2}, "tree": kin} {
		due := u.due(o)
		if len(due) > unseenOwn+unseenOthers || !slices.Contains(due[:2], victim.claims[0]) || !slices.Contains(due[:2], victim.claims[1]) {
			t.Errorf("same %s: %d, of which its own are not the first", name, len(due))
		}
	}
	clear(probed)
	for range many {
		due := u.due(crowd)
		if len(due) > unseenOwn+unseenOthers {
			t.Fatalf("%d are probed at an exit of the same user", len(due))
		}
		for i, c := range due {
			if slices.Contains(due[:i], c) {
				t.Fatal("one is probed twice at one exit")
			}
			probed[c] = true
		}
	}
	if len(probed) != many+2 {
		t.Errorf("%d of %d were ever probed", len(probed), many+2)
	}

	for _, c := range slices.Concat(crowd.claims, victim.claims) {
		u.remove(c)
		u.remove(c)
		if slices.Contains(u.due(crowd), c) {
			t.Fatal("given up, and still probed")
		}
	}
	if len(u.trees)+len(u.users)+u.len() > 0 {
		t.Errorf("left: %+v", u)
	}
}
