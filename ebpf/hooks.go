package ebpf

import "fmt"

// Hooks names a set of places in the kernel where the programs are attached.
type Hooks int

// The sets of hooks.
const (
	// HooksAuto is HooksFexit where the kernel allows it, else HooksTracepoint.
	HooksAuto Hooks = iota
	// HooksFexit is the end of the kernel's unix_bind, whoever calls it, and the socket's death. It costs other system calls
	// nothing. Linux 5.11.
	HooksFexit
	// HooksTracepoint is sys_enter_bind and sys_exit_bind: bind(2) of the native ABI. Linux 5.8.
	HooksTracepoint
	// HooksSysExit is the end of every system call, for bind(2) of the native and the 32-bit ABI, and the completion of
	// io_uring's requests. It is never chosen by HooksAuto. Linux 5.8.
	HooksSysExit
)

// auto is what HooksAuto tries, in this order.
var auto = []Hooks{HooksFexit, HooksTracepoint}

// String returns the name, as in the command line and the configuration.
func (h Hooks) String() string {
	switch h {
	case HooksAuto:
		return "auto"
	case HooksFexit:
		return "fexit"
	case HooksTracepoint:
		return "tracepoint"
	case HooksSysExit:
		return "sys_exit"
	}
	return fmt.Sprintf("hooks(%d)", int(h))
}

// MarshalText returns the name.
func (h Hooks) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText takes a name that String returns.
func (h *Hooks) UnmarshalText(text []byte) error {
	for known := HooksAuto; known <= HooksSysExit; known++ {
		if known.String() == string(text) {
			*h = known
			return nil
		}
	}
	return fmt.Errorf("no hooks are called %q; there are auto, fexit, tracepoint and sys_exit", text)
}
