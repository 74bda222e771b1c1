package watch

import (
	"errors"
	"slices"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// heirs finds owners for sock-files whose maker is not known.
type heirs struct {
	w     *Watcher
	dying map[*Owner]bool
}

// of finds the owner of a bindspace for whom a sock-file is claimed whose maker is not known: it was dead before anybody could look, or
// may not be looked at. That is one of the file's user, which was there when it was made: the one whose convention fits,
// or one that is just ending, or else the youngest. Whoever it was, what is dead when the owner has ended is removed; what lives is kept.
func (h *heirs) of(s *sighting) *Owner {
	born, err := s.file.Born()
	if err != nil && (s.old || !errors.Is(err, errors.ErrUnsupported)) {
		return nil
	}
	name := base(s.path)
	h.w.mu.Lock()
	var eligible []*Owner
	for _, o := range slices.Backward(s.interested()) {
		if o.expects() && !o.everyone && o.uid == s.file.UID() && (err != nil || !born.Before(o.since)) {
			eligible = append(eligible, o)
		}
	}
	if len(eligible) == 0 {
		if i := slices.IndexFunc(s.interested(), func(o *Owner) bool { return o.everyone && !o.released }); i >= 0 {
			eligible = append(eligible, s.interested()[i])
		}
	}
	fits := slices.IndexFunc(eligible, func(o *Owner) bool { return o.fits(name) })
	h.w.mu.Unlock()
	switch {
	case len(eligible) == 0:
		return nil
	case fits >= 0:
		return eligible[fits]
	}
	if dying := slices.IndexFunc(eligible, h.isDying); dying >= 0 {
		return eligible[dying]
	}
	return eligible[0]
}

// isDying tells whether an owner is ending, and asks no owner twice.
func (h *heirs) isDying(o *Owner) bool {
	dying, asked := h.dying[o]
	if asked {
		return dying
	}
	h.w.mu.Lock()
	p, pid, dying := o.process, o.id.PID, o.phase > watching
	h.w.mu.Unlock()
	dying = dying || p != nil && isEnding(p, pid)
	if h.dying == nil {
		h.dying = map[*Owner]bool{}
	}
	h.dying[o] = dying
	return dying
}

// isEnding tells whether a process has ended, or is about to: its sockets are dead before the kernel reports its end.
func isEnding(p *pidfd.Process, pid int) bool {
	if exiting, err := proc.FS("").Exiting(pid); err == nil && exiting {
		return true // the number is not another's: p is watched, so it was not reaped before it had ended
	}
	exited, err := p.Exited()
	return err == nil && exited
}

// fits tells whether the owner's conventions build this name.
func (o *Owner) fits(base string) bool {
	return o.opts != nil && slices.ContainsFunc(o.opts.Conventions, func(c reap.Convention) bool {
		name, pid, ok := c.Parse(base)
		return ok && (pid == o.id.PID || pid == 0 && name == o.opts.Name)
	})
}
