package watch

import (
	"path/filepath"
	"strings"

	"github.com/sockwatch/sockwatch/reap"
)

// Action is what is to become of a claim's file when its owner has ended.
type Action uint8

// The Actions.
const (
	ActionReap   Action = iota // it is removed, if it is dead
	ActionReport               // the outcome says what would become of it
	ActionIgnore               // there is no outcome
)

// Candidate is a claim about which Policy.Decide is asked.
type Candidate struct {
	// Path is where the sock-file is: see reap.File.Where; "" where that cannot be told. As long as the claim is pending it is the path that
	// was claimed, as a text without "//", "." and ".."; then Decide is asked again.
	Path   string
	UID    uint32 // of the owner; of the sock-file where the owner is not known
	PID    int
	Comm   string
	Cgroup string // see Policy.Cgroup
	Source Source
	Traced bool // nothing tells of it but tracing: nobody has named it, or a directory for it
}

// Policy is what a service wants to know and to decide, which a program that watches its own does not need. Decide and Changed are
// called with locks held: they must be quick, wait for nothing, no filesystem either, and call nothing of this package.
type Policy struct {
	// Decide is asked when a claim is made, and when more is learnt of it. Nil is ActionReap.
	Decide func(Candidate) Action
	// Cgroup tells a process's cgroup for Decide, "" where it is not known. It is called without locks, before there is a claim. Nil: Decide
	// needs none.
	Cgroup func(pid int) string
	// Changed is told of an Owner that has another claim, or another file of one, or has come to its end.
	Changed func(*Owner)
}

// decide asks the Policy about a claim. The caller holds w.mu.
func (w *Watcher) decide(c *Claim) {
	path := c.at
	if c.file == nil {
		path = filepath.Clean(c.path)
	}
	c.action = w.decideAt(c, path)
}

// decideAt is what the Policy says of a claim whose file is at path. The caller holds w.mu.
func (w *Watcher) decideAt(c *Claim, path string) Action {
	if w.policy.Decide == nil {
		return ActionReap
	}
	uid := c.owner.uid
	if c.file != nil && c.owner.process == nil {
		uid = c.file.UID()
	}
	return w.policy.Decide(Candidate{
		Path: path, UID: uid, PID: c.owner.id.PID, Comm: c.owner.comm, Cgroup: c.owner.cgroup, Source: c.source, Traced: c.traced,
	})
}

// moved notes that the claim's file has another name in its directory, and not its own any more: that is where the file is, for the Policy
// and, unless somebody has named another path, for who is told of it. The caller holds w.mu.
func (c *Claim) moved(name string) {
	c.at = beside(c.at, name)
	if path := beside(c.path, name); !c.named && c.owner.byPath(path) == nil {
		c.unwatch() // its name is gone from there
		c.unindexPath()
		c.path = path
		c.owner.reindex(c)
	}
	c.owner.w.decide(c)
}

// beside is the path of another name in the directory of a file, "" where that is not known.
func beside(path, name string) string {
	if path == "" {
		return ""
	}
	return strings.TrimSuffix(path, base(path)) + name
}

// where is what the Policy is to know of a file: where it is. The caller does not hold w.mu.
func (w *Watcher) where(f *reap.File) string {
	if w.policy.Decide == nil {
		return ""
	}
	at, err := f.Where()
	if err != nil { // too long to be told
		return ""
	}
	if at == f.Path() { // one copy is enough
		return f.Path()
	}
	return at
}

// learnCgroup learns what the Policy is to know of an owner that lives. The caller does not hold w.mu.
func (o *Owner) learnCgroup() {
	ask := o.w.policy.Cgroup
	if ask == nil {
		return
	}
	o.w.mu.Lock()
	pid, lives := o.id.PID, o.phase == watching && o.process != nil
	o.w.mu.Unlock()
	if !lives {
		return
	}
	cgroup := ask(pid)
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	if cgroup != "" && o.phase == watching { // else the number may be another's by now
		o.cgroup = cgroup
	}
}

// changed tells the Policy. The caller holds w.mu.
func (o *Owner) changed() {
	if f := o.w.policy.Changed; f != nil {
		f(o)
	}
}

// ClaimState is a claim as a service keeps it over its own end.
type ClaimState struct {
	Path       string
	Source     Source
	Traced     bool    // see Candidate
	Named      bool    // somebody named the path: whatever the owner binds there is meant
	File       reap.ID // zero while the claim is pending, and of a file that was not known while the owner lived: it may be anybody's
	Identified bool
	SeenAlive  bool // see reap.File.SeenAlive
	Open       bool // it is not settled, or lives on with a holder
}

// State is the claim's at this moment.
func (c *Claim) State() ClaimState {
	c.owner.w.mu.Lock()
	defer c.owner.w.mu.Unlock()
	s := ClaimState{Path: c.path, Source: c.source, Traced: c.traced, Named: c.named, Open: c.state == armed || c.state == committed}
	if c.file != nil && (c.later == nil || !c.later.final) {
		s.File, s.Identified, s.SeenAlive = c.file.ID(), true, c.file.SeenAlive()
	}
	return s
}
