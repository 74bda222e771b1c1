package ebpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sys"
)

// ErrDropped is returned by Read when events were lost: what they told of is to be found by Scan, and what was bound and closed meanwhile is
// not to be found any more.
var ErrDropped = errors.New("events were lost; scan again")

// procfs is /proc.
var procfs proc.FS

// defaultRingSize had no drop at 48,000 binds per second.
const defaultRingSize = 1 << 20

// Options says how to trace. The zero value takes the best set of hooks that the kernel allows.
type Options struct {
	Hooks Hooks
	// RingSize is how many bytes of events may wait for Read, rounded up to a power of two and a page; 0 is 1 MiB. An event
	// takes about 280 bytes.
	RingSize int
}

// Tracer is one set of hooks in the kernel, and the events that come from there.
type Tracer struct {
	hooks    Hooks
	refusals []Refusal
	reader   *ringbuf.Reader
	decoder  decoder

	// mu is held while the descriptors of the programs are in use: Close must not free their numbers under a system call. It
	// is not held while Read waits.
	mu     sync.Mutex
	set    *set   // nil once closed
	lost   uint64 // as last seen
	missed uint64

	// Read's own.
	record  ringbuf.Record
	told    uint64 // losses that ErrDropped was returned for
	waiting int    // bytes of events to be read before the next ErrDropped; -1 when none is due
	drained bool   // after Detach: there are no more
}

// Open loads and attaches the programs of o.Hooks, and from when it returns no bind is missed. Of HooksAuto it takes the first
// set that the kernel allows: Hooks tells which, and Refusals why not the ones before.
//
// An *UnsupportedError has all refusals when nothing was left to try. Its cause is ErrPermission, ErrPIDNamespace, ErrNoBTF or
// ErrLockdown where that was found out. Before Linux 5.11 Open lifts the process's RLIMIT_MEMLOCK, getrlimit(2).
func Open(o Options) (*Tracer, error) {
	wanted := auto
	if o.Hooks != HooksAuto {
		wanted = []Hooks{o.Hooks}
	}
	ringSize, err := o.ringSize()
	if err != nil {
		return nil, err
	}
	if err := checkPIDNamespace(); err != nil {
		return nil, &UnsupportedError{Cause: err}
	}
	boot, err := procfs.BootID()
	if err != nil {
		return nil, err
	}
	liftMemlock()

	var refusals []Refusal
	for _, h := range wanted {
		t, err := open(h, ringSize)
		if err != nil {
			refusals = append(refusals, Refusal{h, err})
			continue
		}
		t.refusals = refusals
		t.decoder.boot = boot
		return t, nil
	}
	return nil, &UnsupportedError{Cause: missing(), Refusals: refusals}
}

// liftMemlock lifts RLIMIT_MEMLOCK where the kernel counts the memory of BPF there, which is before Linux 5.11. If it cannot, loading
// tells. Package rlimit of cilium/ebpf finds that out by trying, at the start of every program that it is linked to.
func liftMemlock() {
	release, err := sys.KernelRelease()
	if err != nil {
		return
	}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || major > 5 || (major == 5 && minor > 10) {
		return
	}
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
}

func (o Options) ringSize() (uint32, error) {
	const limit = 1 << 30 // the kernel's is near it
	if o.RingSize < 0 || o.RingSize > limit {
		return 0, fmt.Errorf("ring of %d bytes: there can be up to %d", o.RingSize, limit)
	}
	if o.RingSize == 0 {
		return defaultRingSize, nil
	}
	size := uint32(os.Getpagesize())
	for size < uint32(o.RingSize) {
		size *= 2
	}
	return size, nil
}

func open(h Hooks, ringSize uint32) (*Tracer, error) {
	s, err := load(h, ringSize)
	if err != nil {
		return nil, err
	}
	reader, err := ringbuf.NewReader(s.collection.Maps["events"])
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return &Tracer{hooks: h, reader: reader, set: s, waiting: -1}, nil
}

// Hooks tells which set is in use; never HooksAuto.
func (t *Tracer) Hooks() Hooks { return t.hooks }

// Refusals tells what Open tried before in vain.
func (t *Tracer) Refusals() []Refusal { return slices.Clone(t.refusals) }

// Read returns the next event, in the order in which the kernel made them, and waits for it. It is for one goroutine at a time.
//
// ErrDropped, once for all events that were lost so far, after those that were not. io.EOF after Detach, when there are no more;
// os.ErrClosed after Close, which ends a Read that waits. After another error the Tracer is of no more use.
func (t *Tracer) Read() (Event, error) {
	for {
		if t.dropped() {
			return Event{}, ErrDropped
		}
		if t.drained {
			return Event{}, io.EOF
		}
		wait := t.record.Remaining == 0
		switch err := t.reader.ReadInto(&t.record); {
		case errors.Is(err, ringbuf.ErrFlushed):
			t.drained = true
			continue
		case errors.Is(err, os.ErrClosed):
			return Event{}, fmt.Errorf("read events: %w", os.ErrClosed)
		case err != nil:
			return Event{}, fmt.Errorf("read events: %w", err)
		}
		if wait {
			t.decoder.setClock()
		}
		if t.waiting > 0 {
			t.waiting = max(t.waiting-sizeInRing(t.record), 0)
		}
		event, err := t.decoder.decode(t.record.RawSample)
		if err == errLost { //nolint:errorlint // the sentinel itself: this was only to wake us
			continue
		}
		return event, err
	}
}

// sizeInRing is what a record takes in the ring: a header of eight bytes, and a multiple of eight.
func sizeInRing(r ringbuf.Record) int { return 8 + (len(r.RawSample)+7)&^7 }

// dropped tells whether ErrDropped is due: events were lost, and those that were in the ring when that was seen have been read. So a
// rescan is asked for also while more are lost all the time, but not for each.
func (t *Tracer) dropped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.set == nil {
		return false
	}
	ready := t.reader.AvailableBytes()
	lost := t.count(ready == 0)
	if lost == t.told {
		return false
	}
	if t.waiting < 0 {
		t.waiting = ready
	}
	if t.waiting > 0 && ready > 0 {
		return false
	}
	t.told, t.waiting = lost, -1
	return true
}

// Drops is how many events were lost since Open.
func (t *Tracer) Drops() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.set == nil {
		return t.lost + t.missed
	}
	return t.count(true)
}

// count looks into memory that is shared with the programs, and with ask asks the kernel how often it skipped a program, because
// the same one was at work on the processor and was preempted. That one sends its own event later, so asking each time the
// ring is empty is enough.
func (t *Tracer) count(ask bool) uint64 {
	if lost, err := t.set.lost(); err == nil { // as it was when they were loaded
		t.lost = lost
	}
	if ask {
		t.missed = t.set.missed()
	}
	return t.lost + t.missed
}

// Detach takes the programs off their hooks. Read then returns what they had sent before, and io.EOF.
func (t *Tracer) Detach() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.set == nil {
		return os.ErrClosed
	}
	return errors.Join(t.set.detach(), t.reader.Flush())
}

// Close detaches and unloads the programs. Events that were not read are gone. os.ErrClosed when it was closed before.
func (t *Tracer) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.set == nil {
		return os.ErrClosed
	}
	// The hooks first: they slow the whole machine.
	err := errors.Join(t.set.detach(), t.reader.Close(), t.set.close())
	t.set = nil
	return err
}
