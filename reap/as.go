package reap

import (
	"errors"

	"golang.org/x/sys/unix"
)

// UseRightsOf has f removed with the rights that other was opened with: for one sock-file that is opened again by another name. Not for
// use beside any other method of f.
func (f *File) UseRightsOf(other *File) { f.as = other.as }

// barrier is the directory's.
func (o RemoveOptions) barrier(d *dir) error {
	if o.As == nil {
		return d.barrier()
	}
	var err error
	if denied := runAs(o.As, func() { err = d.barrier() }); denied != nil {
		return denied
	}
	return err
}

// foresee is the pin's: what that user would be refused.
func (o RemoveOptions) foresee(p pin) Result {
	if o.As == nil {
		return p.foresee()
	}
	var r Result
	if err := runAs(o.As, func() { r = p.foresee() }); err != nil {
		return refusal("foresee", err)
	}
	return r
}

// drop is the pin's. It is one call of As: one that failed after the rename would leave the file under its private name, with
// nobody who may rename it back.
func (o RemoveOptions) drop(p pin, pr prober) Result {
	if o.As == nil {
		return p.drop(pr, pin.ask)
	}
	var r Result
	if err := runAs(o.As, func() { r = p.drop(pr, pin.askAside) }); err != nil {
		return refusal("rename to a private name", err)
	}
	return r
}

// askAside is ask for what runs by As. The kernel answers that user as it does everybody who may write to the file; who may not gets
// no answer, and then the process asks. Credentials are a thread's, and As has locked its thread where it changed them, so a
// goroutine that is started there has the process's.
func (p pin) askAside(pr prober) (Result, bool) {
	if r, dead := p.ask(pr); dead || r.Outcome == OutcomeAlive {
		return r, dead
	}
	var r Result
	var dead bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		r, dead = p.ask(pr)
	}()
	<-done
	return r, dead
}

// runAs has f run by as. The error is an asError, and f was not run.
func runAs(as func(f func()) error, f func()) error {
	ran := false
	err := as(func() {
		ran = true
		f()
	})
	switch {
	case ran: // then f knows what became of the file, whatever as says
		return nil
	case err == nil:
		err = errNotRun
	}
	return asError{err}
}

var errNotRun = errors.New("it was not run")

// asError says that nothing was done because it could not be done as the user. To errors.Is it is EPERM alone: an ENOENT in
// its cause, say, is not about the sock-file, which would be taken for gone. But it is what says that it may go well another time.
type asError struct{ cause error }

func (e asError) Error() string { return "with the rights of another user: " + e.cause.Error() }

func (e asError) Unwrap() error {
	for _, errno := range [...]unix.Errno{unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.ENOSPC, unix.EIO, unix.ESTALE} {
		if errors.Is(e.cause, errno) {
			return errno
		}
	}
	return unix.EPERM
}
