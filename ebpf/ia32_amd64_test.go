package ebpf

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// ia32 is a kernel that runs 32-bit programs.
var ia32 = testutil.Tried("ia32", sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, program32(exit32(0xdb31)), 0o700); err != nil { // xor ebx, ebx
		return err
	}
	_, err = output(exec.Command(path))
	return err
}))

// Where the program and its data are in its memory.
const (
	base32 = 0x08048000
	data32 = base32 + 0x1000
)

// program32 makes an executable of machine code: an ELF header, one segment that is everything, elf(5).
func program32(code []byte, data ...byte) []byte {
	const headers = 52 + 32
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, binary.LittleEndian, v) // a Buffer takes everything
		}
	}
	b.WriteString("\x7fELF\x01\x01\x01")
	b.Write(make([]byte, 9))
	put(uint16(2), uint16(3), uint32(1), uint32(base32+headers), uint32(52), uint32(0), uint32(0), // EXEC, 386
		uint16(52), uint16(32), uint16(1), uint16(0), uint16(0), uint16(0))
	size := uint32(data32 - base32 + len(data))
	put(uint32(1), uint32(0), uint32(base32), uint32(base32), size, size, uint32(7), uint32(0x1000)) // LOAD, rwx
	b.Write(code)
	b.Write(make([]byte, data32-base32-b.Len()))
	b.Write(data)
	return b.Bytes()
}

func le32(values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// exit32 is the code of exit, after the two bytes of an instruction that says what with.
func exit32(status uint16) []byte {
	code := binary.LittleEndian.AppendUint16(nil, status)
	return append(code, 0xb8, 1, 0, 0, 0, 0xcd, 0x80) // mov eax, 1; int 0x80
}

// binder32 makes a program that binds a socket to a path and exits with the errno.
func binder32(path string, socketcall bool) []byte {
	address := append([]byte{unix.AF_UNIX, 0}, path...)
	const (
		socketArgs = data32
		bindArgs   = data32 + 12
		sockaddr   = data32 + 24
	)
	data := append(le32(unix.AF_UNIX, unix.SOCK_STREAM, 0, 0, sockaddr, uint32(len(address))), address...)

	var code []byte
	op := func(opcode byte, value uint32) { code = append(append(code, opcode), le32(value)...) }
	const movEAX, movEBX, movECX, movEDX, storeEAX = 0xb8, 0xbb, 0xb9, 0xba, 0xa3
	call := func() { code = append(code, 0xcd, 0x80) } // int 0x80
	op(movEAX, 102)                                    // socketcall
	op(movEBX, 1)                                      // SYS_SOCKET
	op(movECX, socketArgs)
	call()
	op(storeEAX, bindArgs)
	if socketcall {
		op(movEAX, 102)
		op(movEBX, 2) // SYS_BIND
		op(movECX, bindArgs)
	} else {
		code = append(code, 0x89, 0xc3) // mov ebx, eax
		op(movECX, sockaddr)
		op(movEDX, uint32(len(address)))
		op(movEAX, 361) // bind
	}
	call()
	code = append(code, 0x89, 0xc3)                            // mov ebx, eax
	return program32(append(code, exit32(0xdbf7)...), data...) // neg ebx
}

func init() { seen["ia32"] = testIA32 }

func testIA32(t *testing.T, e *events) {
	testutil.Require(t, ia32)
	dir := testutil.TempDir(t)
	for name, socketcall := range map[string]bool{"bind": false, "socketcall": true} {
		program, path := filepath.Join(dir, name), filepath.Join(dir, name+".sock")
		if err := os.WriteFile(program, binder32(path, socketcall), 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program)
		if said, err := output(cmd); err != nil {
			t.Fatal(said, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Fatal(err)
		}
		if e.Hooks() == HooksTracepoint {
			continue
		}
		got := e.expect(cmd.Process.Pid, KindBound, path)
		if got.Via != ViaCompat || got.RawPath != path || got.Comm != name {
			t.Errorf("%s: %+v", name, got)
		}
		if e.closes() {
			e.expect(cmd.Process.Pid, KindClosed, "")
		}
	}
	if e.Hooks() == HooksTracepoint {
		// They are not seen, and do not disturb.
		p := startBinder(t, 0)
		p.bind(dir + "/native")
		for got := e.any(); got.Owner.PID != p.PID(); got = e.any() {
			if filepath.Dir(got.Path) == dir {
				t.Errorf("%+v", got)
			}
		}
	}
}
