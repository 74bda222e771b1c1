package watch

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/notifyd"
	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/notify"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// reporter takes the reports of processes on what they have bound: package notify's other side. The zero value takes none.
type reporter struct {
	w     *Watcher
	outer bool // this process is watched itself, by a watcher that wants to know as well
	log   zerolog.Logger
	open  func(Sender, string, string) (*reap.File, error) // nil: reports are of our own tree, and files are opened as by us

	mu       sync.Mutex
	receiver *notifyd.Receiver // nil until somebody asks for the socket
}

// refusalsMost is how many refused reports are logged in a second: who floods us must not flood the log.
const refusalsMost = 20

// Notify makes the socket on which processes report what they bind, and gives its path, to be put into the environment of children as
// notify.Variable. Further calls give the same path.
//
// A report counts when its sender is of this process's user or descends from it, or is gone, and when the sock-file belongs to the
// sender's user; what is refused is logged. The owner is the sender, or the process of the same user that the report names. Where this
// process has the variable set itself, reports are passed on to that socket.
//
// It starts two goroutines, which Close ends.
func (w *Watcher) Notify() (path string, err error) {
	r := &w.reporter
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.receiver != nil {
		return r.receiver.Path(), nil
	}
	// Processes of other users may report, too: who it is is looked at.
	receiver, err := notifyd.ListenTemp(notifyd.Options{Mode: 0o666, Wait: true})
	if err != nil {
		err = limit(err)
		w.log.Warn().Err(err).Msg("processes cannot report what they bind")
		return "", err
	}
	r.outer = notify.Enabled()
	if err := r.start(w, receiver); err != nil {
		return "", err
	}
	return receiver.Path(), nil
}

// Sender is who has sent a report.
type Sender struct {
	PID      int
	UID, GID uint32
	Process  *pidfd.Process // nil when it was reaped by then. For use until open returns
}

// TakeReports takes reports from everybody, for the service of a machine: from a receiver that it takes over on success. A report counts when
// the sock-file belongs to the sender's user. open opens what a sender has reported, below its root directory, with the
// sender's rights. It is instead of Notify.
func (w *Watcher) TakeReports(receiver *notifyd.Receiver, open func(s Sender, root, path string) (*reap.File, error)) error {
	r := &w.reporter
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = open
	return r.start(w, receiver)
}

// start has the reports taken. The caller holds r.mu. On error the receiver is closed.
func (r *reporter) start(w *Watcher, receiver *notifyd.Receiver) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		_ = receiver.Close()
		return ErrClosed
	}
	r.w, r.receiver = w, receiver
	r.log = w.log.Sample(&zerolog.BurstSampler{Burst: refusalsMost, Period: time.Second})
	w.loop.Go(func() { r.run(receiver) })
	return nil
}

func (r *reporter) get() *notifyd.Receiver {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.receiver
}

// behind tells whether something that was reported by now was not looked at yet.
func (r *reporter) behind() bool {
	receiver := r.get()
	return receiver != nil && receiver.Behind()
}

// catchUp waits until all that was reported by now was looked at.
func (r *reporter) catchUp() {
	if receiver := r.get(); receiver != nil {
		receiver.CatchUp()
	}
}

// close ends the taking of reports. w.closed is set.
func (r *reporter) close() {
	if receiver := r.get(); receiver != nil {
		if err := receiver.Close(); err != nil {
			r.w.log.Warn().Err(err).Msg("close the notify socket")
		}
	}
}

// run takes reports. It opens and probes the files, so that the loop need not, and a flood of reports delays no removal.
func (r *reporter) run(receiver *notifyd.Receiver) {
	for {
		report, err := receiver.Next()
		if err != nil {
			return
		}
		if err := r.take(report); err != nil {
			r.log.Warn().Err(err).Int("pid", report.Sender.PID).Uint32("uid", report.Sender.UID).Msg("a report is refused")
		}
		report.Close()
	}
}

var (
	errStranger  = errors.New("its sender is of another user and no descendant of ours")
	errOtherUser = errors.New("it is about a process of another user")
	errNotOwn    = errors.New("the sock-file belongs to another user")
	errOurselves = errors.New("it is about the watcher itself")
	errTooYoung  = errors.New("the sock-file is younger than the report of a process that is dead")
)

// subject is the process that a report is about.
type subject struct {
	pid     int
	process *pidfd.Process // nil when it is gone
	sender  notifyd.Sender
}

// take makes claims of a report, or withdraws them.
func (r *reporter) take(report notifyd.Report) error {
	if report.Err != nil {
		return report.Err
	}
	sender := report.Sender
	s := subject{pid: sender.PID, process: sender.Process, sender: sender}
	// Whose descendant it was cannot be told of the dead. What they report is their own user's, and nobody's when it is dead.
	if r.open == nil && sender.UID != uint32(os.Geteuid()) && s.process != nil && s.process.PID() > 0 && !descends(sender.PID) {
		if _, err := s.process.Info(); !errors.Is(err, pidfd.ErrExited) {
			return errStranger
		}
	}
	if report.PID != 0 && report.PID != sender.PID {
		p, err := openOther(report)
		if err != nil {
			return err
		}
		if p != nil {
			defer p.Close()
		}
		s.pid, s.process = report.PID, p
	}
	if s.pid == os.Getpid() {
		return errOurselves
	}
	r.passOn(report, s) // first: what is removed by us is no news to the other
	var errs []error
	if report.Name != "" {
		errs = append(errs, r.name(s, report.Name))
	}
	for _, change := range report.Changes {
		if change.Unbind {
			r.unbound(s, change.Path)
		} else if err := r.bound(s, change.Path); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", change.Path, err))
		}
	}
	return errors.Join(errs...)
}

// openOther opens the process that a report is about, when that is not its sender; nil when it is gone: a script that has a program of
// its own report for it may be dead as soon as that has ended.
func openOther(report notifyd.Report) (*pidfd.Process, error) {
	p, err := pidfd.Open(report.PID)
	if errors.Is(err, pidfd.ErrExited) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := p.Info()
	if errors.Is(err, pidfd.ErrExited) {
		_ = p.Close()
		return nil, nil
	}
	if err == nil && info.EUID != report.Sender.UID && report.Sender.UID != 0 {
		err = fmt.Errorf("process %d: %w", report.PID, errOtherUser)
	}
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// bound claims what was reported to be bound.
func (r *reporter) bound(s subject, path string) error {
	f, err := r.openFor(s, path)
	if errors.Is(err, fs.ErrNotExist) { // its maker was quicker, or another watcher
		r.log.Debug().Err(err).Int("pid", s.pid).Msg("what was reported is gone")
		return nil
	}
	if err != nil {
		return err
	}
	if s.sender.UID != 0 && f.UID() != s.sender.UID {
		_ = f.Close()
		return errNotOwn
	}
	_, _ = f.Probe() // it remembers to have been alive
	o, err := r.owner(s, f)
	if err == nil {
		_, err = o.ClaimFile(f, SourceNotify)
	}
	if err != nil {
		_ = f.Close()
	}
	return err
}

// owner finds the Owner of a process that has reported, or makes one. f is what it has bound.
func (r *reporter) owner(s subject, f *reap.File) (*Owner, error) {
	o, err := r.ownerAlive(s)
	if !errors.Is(err, pidfd.ErrExited) {
		return o, err
	}
	// Its pid may be another process's by now, and the file one that was made since.
	if born, err := f.Born(); err == nil && !s.sender.Time.IsZero() && born.After(s.sender.Time) {
		return nil, errTooYoung
	}
	var root *Owner
	if roots := r.w.roots(); len(roots) == 1 {
		root = roots[0]
	}
	return r.w.addDead(pidfd.Identity{PID: s.pid}, f.UID(), root)
}

// ownerAlive is owner of a process that is not reaped; else pidfd.ErrExited.
func (r *reporter) ownerAlive(s subject) (*Owner, error) {
	if s.process == nil {
		return nil, pidfd.ErrExited
	}
	id, err := s.process.Identity()
	if err != nil {
		return nil, err
	}
	root, kin, err := r.w.rootOf(s.process, id, r.w.roots())
	if err != nil {
		return nil, err
	}
	return r.w.ownerOf(id, root, kin)
}

// unbound withdraws the claim on a path that its owner is done with. What a caller of ours has named stays claimed, and what the dead have
// bound is settled as it is.
func (r *reporter) unbound(s subject, path string) {
	if s.process == nil {
		return
	}
	id, err := s.process.Identity()
	if err != nil {
		return
	}
	seen := s.root() + path
	w := r.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if o := w.byPID[id.PID]; o != nil && o.id == id {
		if c := o.byPath(seen); c != nil && !c.named {
			c.release()
		}
	}
}

// name gives a process the name that the conventions of its tree build from.
func (r *reporter) name(s subject, name string) error {
	o, err := r.ownerAlive(s)
	if err != nil {
		if errors.Is(err, pidfd.ErrExited) {
			return nil // what it may have bound is found in another way, or not
		}
		return err
	}
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if from := o.top().opts; from != nil {
		o.opts = &OwnerOptions{Name: name, Bindspaces: from.Bindspaces, Conventions: from.Conventions}
	}
	return nil
}

// openFor opens a path as the process sees it.
func (r *reporter) openFor(s subject, path string) (*reap.File, error) {
	root := s.root()
	var f *reap.File
	var err error
	switch {
	case r.open != nil:
		f, err = r.open(Sender{s.sender.PID, s.sender.UID, s.sender.GID, s.sender.Process}, cmp.Or(root, "/"), path)
	case root == "":
		return reap.Open(path)
	default:
		f, err = reap.OpenIn(root, path)
	}
	if err != nil || root == "" {
		return f, err
	}
	if exited, err := s.process.Exited(); err != nil || exited { // the number may have been another process's
		_ = f.Close()
		return nil, pidfd.ErrExited
	}
	return f, nil
}

// root is the process's root directory, "" when it is ours, or cannot be seen: that of the dead cannot, and ours is as good as any.
func (s subject) root() string {
	if s.process == nil {
		return ""
	}
	if same, err := proc.FS("").SameRoot(s.pid); err != nil || same {
		return ""
	}
	return "/proc/" + strconv.Itoa(s.pid) + "/root"
}

// passOn tells the outer watcher what a report says.
func (r *reporter) passOn(report notifyd.Report, s subject) {
	if !r.outer {
		return
	}
	var message []byte
	for _, change := range report.Changes {
		key := "BIND="
		if change.Unbind {
			key = "UNBIND="
		}
		message = append(message, key+change.Path+"\n"...)
	}
	if report.Name != "" {
		message = append(message, "NAME="+report.Name+"\n"...)
	}
	if s.process != nil {
		message = append(message, "PID="+strconv.Itoa(s.pid)+"\n"...) // else it counts as ours
	}
	err := notify.Send(string(message))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) { // it has gone before us
		r.log.Warn().Err(err).Msg("pass a report on to the outer watcher")
	}
}
