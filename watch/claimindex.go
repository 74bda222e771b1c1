package watch

import (
	"github.com/sockwatch/sockwatch/reap"
)

// claimIndex finds the claims of an owner that has many.
type claimIndex struct {
	paths map[string]*Claim
	ids   map[reap.ID]*Claim
}

// indexFrom is the number of claims from which an index pays.
const indexFrom = 16

// reindex notes the path and the identity of a claim. The caller holds w.mu.
func (o *Owner) reindex(c *Claim) {
	if o.index == nil {
		if len(o.claims) < indexFrom {
			return
		}
		o.index = &claimIndex{paths: map[string]*Claim{}, ids: map[reap.ID]*Claim{}}
		for _, c := range o.claims {
			o.index.note(c)
		}
		return
	}
	o.index.note(c)
}

func (x *claimIndex) note(c *Claim) {
	x.paths[c.path] = c
	if c.file != nil {
		x.ids[c.file.ID()] = c
	}
}

// unindexPath is for a claim whose path is about to be another one. The caller holds w.mu, and reindexes it.
func (c *Claim) unindexPath() {
	if x := c.owner.index; x != nil && x.paths[c.path] == c {
		delete(x.paths, c.path)
	}
}

// byPath finds the claim on a path. The caller holds w.mu.
func (o *Owner) byPath(path string) *Claim {
	if o.index != nil {
		if c := o.index.paths[path]; c != nil && c.state != withdrawn {
			return c
		}
		return nil
	}
	for _, c := range o.claims {
		if c.path == path && c.state != withdrawn {
			return c
		}
	}
	return nil
}

// byID finds the claim on a file. The caller holds w.mu.
func (o *Owner) byID(id reap.ID) *Claim {
	if o.index != nil {
		if c := o.index.ids[id]; c != nil && c.is(id) {
			return c
		}
		return nil
	}
	for _, c := range o.claims {
		if c.is(id) {
			return c
		}
	}
	return nil
}

// is tells whether the claim is on the file with this identity. The caller holds w.mu.
func (c *Claim) is(id reap.ID) bool {
	return c.state != withdrawn && c.file != nil && c.file.ID() == id
}
