package ebpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// From linux/io_uring.h; x/sys does not have them.
const (
	opBind          = 56
	offSQRing       = 0
	offSQEs         = 0x10000000
	enterGetEvents  = 1
	registerProbe   = 8
	sqeAsync        = 1 << 4
	probeOps        = 256
	opSupported     = 1
	featSingleMmap  = 1
	sizeofSQE       = 64
	sizeofCQE       = 16
	ringEntries     = 4
	sizeofProbeHead = 16
	sizeofProbeOp   = 8
)

type ringParams struct {
	sqEntries, cqEntries, flags, threadCPU, threadIdle, features, wqFD uint32
	_                                                                  [3]uint32
	sq                                                                 struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

func setupRing() (fd int, p ringParams, err error) {
	n, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, ringEntries, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return -1, p, os.NewSyscallError("io_uring_setup", errno)
	}
	return int(n), p, nil
}

// ioUring is a kernel whose io_uring can bind.
var ioUring = testutil.Tried("iouring", sync.OnceValue(func() error {
	fd, _, err := setupRing()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var probe [sizeofProbeHead + probeOps*sizeofProbeOp]byte
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), registerProbe, uintptr(unsafe.Pointer(&probe)), probeOps, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("io_uring_register", errno)
	}
	if probe[sizeofProbeHead+opBind*sizeofProbeOp+2]&opSupported == 0 {
		return errors.New("no IORING_OP_BIND")
	}
	return nil
}))

// bindByRing binds a socket to a path with a request of io_uring, from the thread itself or with "async" from a worker.
func bindByRing() {
	ring, p, err := setupRing()
	check(err)
	if p.features&featSingleMmap == 0 {
		check(errors.New("an io_uring older than its bind"))
	}
	size := max(int(p.sq.array+p.sqEntries*4), int(p.cq.cqes+p.cqEntries*sizeofCQE))
	rings, err := unix.Mmap(ring, offSQRing, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(err)
	sqes, err := unix.Mmap(ring, offSQEs, int(p.sqEntries)*sizeofSQE, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(err)
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	check(err)

	address := unix.RawSockaddrUnix{Family: unix.AF_UNIX}
	path := os.Args[1]
	for i := range len(path) {
		address.Path[i] = int8(path[i])
	}
	sqe := (*struct {
		op, flags uint8
		_         uint16
		fd        int32
		length    uint64 // of the address
		address   uint64
		_         [5]uint64
	})(unsafe.Pointer(&sqes[0]))
	sqe.op, sqe.fd = opBind, int32(sock)
	sqe.length = uint64(unsafe.Offsetof(address.Path)) + uint64(len(path))
	sqe.address = uint64(uintptr(unsafe.Pointer(&address)))
	if len(os.Args) > 2 {
		sqe.flags = sqeAsync
	}
	word := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&rings[offset])) }
	*word(p.sq.array) = 0
	atomic.AddUint32(word(p.sq.tail), 1)
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(ring), 1, 1, enterGetEvents, 0, 0)
	if errno != 0 {
		check(os.NewSyscallError("io_uring_enter", errno))
	}
	if res := int32(*word(p.cq.cqes + 8)); res != 0 {
		check(unix.Errno(-res))
	}
	fmt.Println(inode(sock))
	var b [1]byte
	_, _ = os.Stdin.Read(b[:]) // the socket stays until then
}

func testIOUring(t *testing.T, e *events) {
	testutil.Require(t, ioUring)
	dir := testutil.TempDir(t)
	for _, args := range [][]string{{dir + "/own"}, {dir + "/worker", "async"}} {
		p := testutil.Start(t, testutil.Command(t, "io_uring", args...))
		socket := p.Line()
		if e.Hooks() == HooksTracepoint {
			sockets := scan(t)
			if !contains(sockets, args[0]) {
				t.Errorf("%s is not in the scan", args[0])
			}
			continue
		}
		got := e.expect(p.PID(), KindBound, args[0])
		if got.Via != ViaIOUring || fmt.Sprint(got.Socket) != socket || got.RawPath != args[0] {
			t.Errorf("socket %s: %+v", socket, got)
		}
		p.Hangup()
		if e.closes() {
			e.expect(p.PID(), KindClosed, "")
		}
	}
	p := startBinder(t, 0)
	p.bind(filepath.Join(dir, "native"))
	e.expect(p.PID(), KindBound, filepath.Join(dir, "native"))
}
