package watch

import (
	"slices"
	"strings"

	"github.com/sockwatch/sockwatch/bindspace"
)

// place is a directory in which something is expected: the file of a claim, or anything at all where it is a bindspace.
// Guarded by the Watcher's mu.
type place struct {
	dir    *bindspace.Dir
	refs   int
	names  map[string][]*Claim // claims on a name in it
	owners []*Owner            // of which it is a bindspace
	rescan bool                // all of it is to be looked at
}

// use notes one use more of a directory, which the caller was given by w.spaces. The caller holds w.mu.
func (w *Watcher) use(d *bindspace.Dir) *place {
	p := w.places[d]
	if p == nil {
		p = &place{dir: d, names: map[string][]*Claim{}}
		w.places[d] = p
	}
	p.refs++
	return p
}

// leave gives up one use. The caller holds w.mu.
func (w *Watcher) leave(p *place) {
	if p.refs--; p.refs == 0 {
		delete(w.places, p.dir)
	}
	p.dir.Release()
}

// expect has the claim told of what appears under its path's name, and of the end of that. It takes one use over. The
// caller holds w.mu.
func (p *place) expect(c *Claim) {
	c.place = p
	name := base(c.path)
	p.names[name] = append(p.names[name], c)
}

// forget is the opposite of expect; the use is the caller's again. The caller holds w.mu.
func (p *place) forget(c *Claim) {
	name := base(c.path)
	rest := slices.DeleteFunc(p.names[name], func(other *Claim) bool { return other == c })
	if len(rest) == 0 {
		delete(p.names, name)
	} else {
		p.names[name] = rest
	}
	c.place = nil
}

// parent is the directory of a path as it stands.
func parent(path string) string { return strings.TrimSuffix(path, base(path)) }
