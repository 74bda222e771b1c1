package ebpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/pidfd"
)

// The layout of struct event in bpf/event.h.
const (
	offKind      = 0
	offVia       = 1
	offFlags     = 2
	offRawLen    = 3
	offPathLen   = 4
	offTime      = 8
	offSocket    = 16
	offInode     = 24
	offPIDInode  = 32
	offStart     = 40
	offDev       = 48
	offPID       = 52
	sizeofHead   = 56
	offCgroup    = 56
	offTID       = 64
	offNSPID     = 68
	offUID       = 72
	offEUID      = 76
	offMountNS   = 80
	offPIDNS     = 84
	offNetNS     = 88
	offResult    = 92
	offRootLen   = 96
	offComm      = 100
	offRaw       = 116
	offPath      = 224
	sizeofComm   = offRaw - offComm
	sizeofRaw    = offPath - offRaw
	kindLost     = 3
	flagTruncate = 1 << 0
	flagOutside  = 1 << 1
	flagTop      = 1 << 2
)

// nanosPerTick is that of the clock ticks in proc_pid_stat(5), of which there are 100 in a second whatever the kernel's own.
const nanosPerTick = uint64(time.Second) / 100

var (
	errMalformed = errors.New("malformed event")
	errLost      = errors.New("a note that events were lost")
)

// decoder makes Events of what the programs send.
type decoder struct {
	boot  string    // the boot id
	epoch time.Time // when CLOCK_BOOTTIME was 0
}

// setClock looks how the kernel's clock stands to the wall clock, which may be set at any time.
func (d *decoder) setClock() {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) == nil { // it cannot fail: Linux 2.6.39
		d.epoch = time.Now().Round(0).Add(-time.Duration(ts.Nano()))
	}
}

// decode reads one message, which it does not keep. errLost is no event.
func (d *decoder) decode(b []byte) (Event, error) {
	if len(b) < sizeofHead {
		return Event{}, fmt.Errorf("%w: %d bytes", errMalformed, len(b))
	}
	u32 := func(offset int) uint32 { return binary.NativeEndian.Uint32(b[offset:]) }
	u64 := func(offset int) uint64 { return binary.NativeEndian.Uint64(b[offset:]) }

	kind := Kind(b[offKind])
	if kind == kindLost {
		return Event{}, errLost
	}
	dev := u32(offDev)
	e := Event{
		Kind:      kind,
		Time:      d.epoch.Add(time.Duration(u64(offTime))),
		Owner:     pidfd.Identity{PID: int(u32(offPID)), Inode: u64(offPIDInode), BootID: d.boot},
		StartTime: u64(offStart) / nanosPerTick,
		Socket:    u64(offSocket),
		Dev:       unix.Mkdev(dev>>20, dev&(1<<20-1)),
		Inode:     u64(offInode),
	}
	if e.Owner.Inode == 0 {
		e.Owner.StartTime = e.StartTime
	}
	switch kind {
	case KindClosed:
		return e, nil
	case KindBound:
	default:
		return Event{}, fmt.Errorf("%w: %s", errMalformed, kind)
	}

	if len(b) < offPath {
		return Event{}, fmt.Errorf("%w: %d bytes", errMalformed, len(b))
	}
	raw, path := int(b[offRawLen]), b[offPath:]
	if raw > sizeofRaw || uint64(len(path)) != uint64(u32(offPathLen)) {
		return Event{}, fmt.Errorf("%w: name of %d bytes, path of %d in %d", errMalformed, raw, u32(offPathLen), len(path))
	}
	e.Via = Via(b[offVia])
	e.TID = int(u32(offTID))
	e.NSPID = int(u32(offNSPID))
	e.UID, e.EUID = u32(offUID), u32(offEUID)
	e.Comm = cString(b[offComm : offComm+sizeofComm])
	e.CgroupID = u64(offCgroup)
	e.MountNS, e.PIDNS, e.NetNS = u32(offMountNS), u32(offPIDNS), u32(offNetNS)
	e.Truncated = b[offFlags]&flagTruncate != 0
	e.Outside = b[offFlags]&flagOutside != 0
	e.RawPath = cString(b[offRaw : offRaw+raw])
	e.Result = int(int32(u32(offResult)))
	var err error
	if b[offFlags]&flagTop != 0 {
		if e.FullPath, err = joinPath(path, true); err != nil {
			return e, err
		}
	}
	switch below := int(u32(offRootLen)); {
	case e.Truncated, e.Outside:
		e.Path, err = joinPath(path, false)
	case below > len(path):
		err = fmt.Errorf("%w: %d bytes of a path of %d", errMalformed, below, len(path))
	case below == len(path) && e.FullPath != "": // of nearly all
		e.Path = e.FullPath
	default:
		e.Path, err = joinPath(path[:below], true)
	}
	return e, err
}

// joinPath puts the elements, which come last one first and each with a NUL, in order.
func joinPath(elements []byte, absolute bool) (string, error) {
	switch {
	case len(elements) > 0:
	case absolute:
		return "", fmt.Errorf("%w: no path", errMalformed)
	default:
		return "", nil // the first step failed
	}
	if elements[len(elements)-1] != 0 {
		return "", fmt.Errorf("%w: path without an end", errMalformed)
	}
	path := make([]byte, 0, len(elements))
	for rest := elements[:len(elements)-1]; ; {
		i := bytes.LastIndexByte(rest, 0)
		if len(path) > 0 || absolute {
			path = append(path, '/')
		}
		path = append(path, rest[i+1:]...)
		if i < 0 {
			return string(path), nil
		}
		rest = rest[:i]
	}
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
