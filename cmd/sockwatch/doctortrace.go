package main

import (
	"errors"

	"github.com/sockwatch/sockwatch/ebpf"
)

// checkTracing tries each set of hooks that 'sockwatch trace' can use.
func checkTracing() []finding {
	const measured = " (measured on one machine; see docs/benchmarks.md)"
	var all []finding
	for _, set := range []struct {
		hooks ebpf.Hooks
		does  string
	}{
		{ebpf.HooksFexit, "sees every bind, and slows no other system call"},
		{ebpf.HooksTracepoint, "sees bind of 64-bit programs, and slows every system call of the machine while it is in use, by 15 to 25 ns" + measured},
		{ebpf.HooksSysExit, "sees every bind, and slows every system call of the machine while it is in use, by 30 to 45 ns" + measured},
	} {
		check := "trace-" + set.hooks.String()
		t, err := ebpf.Open(ebpf.Options{Hooks: set.hooks})
		if err == nil {
			err = t.Close()
		}
		if err == nil {
			all = append(all, ok(check, set.does))
			continue
		}
		var unsupported *ebpf.UnsupportedError
		if errors.As(err, &unsupported) && unsupported.Cause != nil {
			err = unsupported.Cause // what the kernel said about it adds nothing
		} else if unsupported != nil && len(unsupported.Refusals) == 1 {
			err = unsupported.Refusals[0].Err // the rest is said by the name of the check
		}
		all = append(all, limited(check, oneLine(err), "binds are not traced by "+set.hooks.String()))
	}
	return all
}
