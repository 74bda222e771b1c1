package ebpf

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// openAndTell says how Open ends, and how often it was refused. Its argument tells where: "unprivileged", or with a file hidden.
func openAndTell() {
	switch {
	case len(os.Args) == 1:
		tell()
	case os.Args[1] == "unprivileged":
		onOwnThread(func() {
			none := [2]unix.CapUserData{}
			check(unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]))
			tell()
		})
	default:
		check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		check(unix.Mount("tmpfs", os.Args[1], "tmpfs", 0, ""))
		tell()
	}
}

func tell() {
	tracer, err := Open(Options{})
	if err == nil {
		fmt.Println("works")
		check(tracer.Close())
		return
	}
	unsupported, ok := errors.AsType[*UnsupportedError](err)
	if !ok {
		check(err)
	}
	for name, cause := range map[string]error{"privilege": ErrPermission, "pid namespace": ErrPIDNamespace, "BTF": ErrNoBTF} {
		if errors.Is(err, cause) {
			fmt.Println(len(unsupported.Refusals), name)
		}
	}
	for _, r := range unsupported.Refusals {
		if r.Err == nil || !errors.Is(err, r.Err) || !strings.Contains(err.Error(), r.String()) {
			fmt.Printf("%s is not in %s\n", r, err)
		}
	}
}

// A process of its own: the library remembers what the kernel would not do.
func TestUnprivileged(t *testing.T) {
	if said, err := output(testutil.Command(t, "open", "unprivileged")); err != nil || said != "2 privilege\n" {
		t.Errorf("%q, %v", said, err)
	}
}

func TestPIDNamespace(t *testing.T) {
	testutil.Require(t, testutil.Root)
	cmd := testutil.Command(t, "open")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	if said, err := output(cmd); err != nil || said != "0 pid namespace\n" {
		t.Errorf("%q, %v", said, err)
	}
}

func TestNoBTF(t *testing.T) {
	testutil.Require(t, testutil.Root, testutil.BPF)
	cmd := testutil.Command(t, "open", "/sys/kernel/btf")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	// It works where there is a vmlinux file with type information.
	if said, err := output(cmd); err != nil || said != "2 BTF\n" && said != "works\n" {
		t.Errorf("%q, %v", said, err)
	}
}

// TestAuto is about what is told of a set of hooks that was passed over.
func TestAuto(t *testing.T) {
	testutil.Require(t, testutil.Root, testutil.BPF)
	tracer, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close()
	if tracer.Hooks() == HooksFexit {
		if r := tracer.Refusals(); len(r) != 0 {
			t.Errorf("refused: %v", r)
		}
		return
	}
	r := tracer.Refusals()
	if tracer.Hooks() != HooksTracepoint || len(r) != 1 || r[0].Hooks != HooksFexit {
		t.Errorf("%s after %v", tracer.Hooks(), r)
	}
	if _, ok := errors.AsType[syscall.Errno](r[0].Err); !ok {
		t.Errorf("%v has no errno", r[0])
	}
}

func TestHooksText(t *testing.T) {
	for _, h := range []Hooks{HooksAuto, HooksFexit, HooksTracepoint, HooksSysExit} {
		text, err := h.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back Hooks
		if err := back.UnmarshalText(text); err != nil || back != h {
			t.Errorf("%s became %s, %v", h, back, err)
		}
	}
	if err := new(Hooks).UnmarshalText([]byte("kprobe")); err == nil {
		t.Error("kprobe is taken")
	}
}

func TestRingSize(t *testing.T) {
	page := uint32(os.Getpagesize())
	for _, test := range []struct {
		asked int
		want  uint32
	}{{0, defaultRingSize}, {1, page}, {int(page) + 1, 2 * page}, {1 << 20, 1 << 20}, {3 << 20, 4 << 20}} {
		if got, err := (Options{RingSize: test.asked}).ringSize(); err != nil || got != test.want {
			t.Errorf("ring of %d for %d bytes, %v; want %d", got, test.asked, err, test.want)
		}
	}
	for _, asked := range []int{-1, 1<<30 + 1} {
		if _, err := (Options{RingSize: asked}).ringSize(); err == nil {
			t.Errorf("%d bytes are taken", asked)
		}
	}
}
