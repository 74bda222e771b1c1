package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sockwatch/sockwatch/ebpf"
)

// tracingBy is how a line begins on standard error that says that from now on binds are seen.
const tracingBy = "sockwatch: tracing by"

// tracer is who looks on.
type tracer struct {
	name string
	argv []string
	// starts says that it starts the loop, whose command is in argv, when it is ready. Others see all of the machine, and say when.
	starts bool
	// tells is what each line of the output has that tells of a bind, beside the path. It is empty of those who tell nothing.
	tells string
}

// traceScript is a bpftrace program that tells what `sockwatch trace` tells first: who has bound which path.
const traceScript = `tracepoint:syscalls:sys_enter_bind { @address[tid] = args->umyaddr; }
tracepoint:syscalls:sys_exit_bind /@address[tid]/ {
	if (args->ret == 0 && *(uint16 *)@address[tid] == 1) { printf("%d %s\n", pid, str((uint8 *)@address[tid] + 2)); }
	delete(@address[tid]);
}`

// findTracers is who can trace here, and why others cannot.
func (b *tracingBench) findTracers() (found []tracer, leftOut []string, err error) {
	for _, h := range []ebpf.Hooks{ebpf.HooksFexit, ebpf.HooksTracepoint, ebpf.HooksSysExit} {
		t, err := ebpf.Open(ebpf.Options{Hooks: h})
		var unsupported *ebpf.UnsupportedError
		if errors.As(err, &unsupported) {
			leftOut = append(leftOut, fmt.Sprintf("hooks %s: %s", h, err))
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if err := t.Close(); err != nil {
			return nil, nil, err
		}
		found = append(found,
			tracer{name: h.String() + ", nobody reads", argv: []string{"/proc/self/exe", "hooks", h.String(), "unread"}},
			tracer{name: h.String() + ", a reader", argv: []string{"/proc/self/exe", "hooks", h.String(), "read"}},
			tracer{
				name: "sockwatch trace, " + h.String(), argv: []string{b.sockwatch, "trace", "--hooks", h.String()}, tells: " bind ",
			})
	}
	strace := []string{"-f", "-e", "trace=bind", "-o", b.output, b.loop, b.path}
	for _, peer := range []tracer{
		{name: "strace -f", argv: append([]string{"strace"}, strace...), tells: "bind("},
		{name: "strace -f --seccomp-bpf", argv: append([]string{"strace", "--seccomp-bpf"}, strace...), tells: "bind("},
		{name: "bpftrace", argv: []string{"bpftrace", "-o", b.output, "-e", traceScript, "-c", b.loop + " " + b.path}, tells: " /"},
	} {
		if _, err := exec.LookPath(peer.argv[0]); err != nil {
			leftOut = append(leftOut, fmt.Sprintf("%s: %s (apt-get install %s)", peer.name, err, peer.argv[0]))
			continue
		}
		peer.starts = true
		found = append(found, peer)
	}
	return found, leftOut, nil
}

// told counts the lines of a tracer's output that tell of a bind of the loop's.
func (b *tracingBench) told(t *tracer) (n int, err error) {
	text, err := os.ReadFile(b.output)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(filepath.Base(b.path))) && bytes.Contains(line, []byte(t.tells)) {
			n++
		}
	}
	return n, nil
}
