// Package ebpf sees every bind of a sock-file on the machine, with nobody's cooperation: it loads the programs of bpf/ into the
// kernel and yields what they report.
//
// [Open] attaches one set of [Hooks], [Tracer.Read] yields one [Event] per successful bind(2) to a pathname, and, with
// HooksFexit, one per such socket's death. [Scan] tells what was bound before, and needs no program. The order that leaves no gap
// is Open, then Scan, then Read; [ErrDropped] asks for the same Scan again.
//
// It is not for deciding anything: it knows no claims, opens no sock-file and no process. Abstract and autobound addresses,
// and binds that failed, are not reported.
//
// Hazards. An Event tells of the past: the process may be gone, its pid another's, and the path may lead elsewhere. Compare
// [Event.Owner] with the process that was opened and [Event.Inode] with the file's. A path is one in the mount namespace
// and under the root directory of the process that called bind.
// Pids are those of the initial pid namespace, so Open refuses in any other. While HooksTracepoint or HooksSysExit are attached
// every system call of the machine takes a slower way in and out of the kernel. With HooksTracepoint, what binds by the 32-bit
// system calls or by io_uring is not seen, nor is a socket whose descriptor another thread closed or replaced during the
// bind; Scan finds them. With HooksFexit a bind that was under way while Open attached is not seen either.
//
// A Tracer holds about fifteen descriptors, starts no goroutine, and goes without a trace with the process: nothing is
// pinned. Close detaches the programs. Loading takes some 100 ms, most of it for reading the kernel's type information.
//
// Linux 5.11 for HooksFexit, with CONFIG_DEBUG_INFO_BTF for all; amd64 and arm64. CAP_BPF and CAP_PERFMON, for HooksTracepoint
// CAP_DAC_READ_SEARCH too.
package ebpf
