package ebpf

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	cilium "github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// set is one set of hooks in the kernel. Each has a collection of its own, with a ring of its own: what refuses one of them says
// nothing about the others.
type set struct {
	collection *cilium.Collection
	links      []link.Link
}

// load brings the programs into the kernel and attaches them.
func load(h Hooks, ringSize uint32) (*set, error) {
	spec, err := specOf(h)
	if err != nil {
		return nil, err
	}
	spec.Maps["events"].MaxEntries = ringSize
	collection, err := cilium.NewCollection(spec)
	if errors.Is(err, unix.EPERM) {
		// The library adds advice about RLIMIT_MEMLOCK, which is not the reason.
		return nil, fmt.Errorf("load programs: %w", os.NewSyscallError("bpf", unix.EPERM))
	}
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	s := &set{collection: collection}
	// By name: enter_bind before exit_bind, which counts a loss for each bind whose begin it does not know.
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		l, err := attach(spec.Programs[name], collection.Programs[name])
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach %s: %w", spec.Programs[name].SectionName, err), s.close())
		}
		s.links = append(s.links, l)
	}
	if _, err := s.lost(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func specOf(h Hooks) (*cilium.CollectionSpec, error) {
	switch h {
	case HooksFexit:
		return loadFexit()
	case HooksTracepoint:
		return loadTracepoint()
	case HooksSysExit:
	default:
		return nil, fmt.Errorf("there are no hooks %s", h)
	}
	spec, err := loadSysexit()
	if err != nil {
		return nil, err
	}
	switch known, err := knowsRequests(); {
	case err != nil:
		return nil, err
	case !known:
		delete(spec.Programs, "complete_request")
	}
	return spec, nil
}

// knowsRequests tells whether this kernel's io_uring can bind, Linux 6.11, and hands its tracepoint the request where the program looks for it.
func knowsRequests() (bool, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return false, err
	}
	var ops *btf.Enum
	if err := kernel.TypeByName("io_uring_op", &ops); errors.Is(err, btf.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	can := false
	for _, op := range ops.Values {
		can = can || op.Name == "IORING_OP_BIND"
	}
	var probe *btf.Typedef
	if err := kernel.TypeByName("btf_trace_io_uring_complete", &probe); !can || errors.Is(err, btf.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	pointer, ok := probe.Type.(*btf.Pointer)
	if !ok {
		return false, nil
	}
	proto, ok := pointer.Target.(*btf.FuncProto)
	// What the tracepoint itself is given, the ring, and the request, which it knows as a void pointer.
	if !ok || len(proto.Params) < 3 {
		return false, nil
	}
	request, ok := proto.Params[2].Type.(*btf.Pointer)
	if !ok {
		return false, nil
	}
	_, ok = request.Target.(*btf.Void)
	return ok, nil
}

func attach(spec *cilium.ProgramSpec, program *cilium.Program) (link.Link, error) {
	if spec.Type == cilium.TracePoint {
		return link.Tracepoint("syscalls", spec.AttachTo[len("syscalls/"):], program, nil)
	}
	return link.AttachTracing(link.TracingOptions{Program: program})
}

// lost is how many events had no room. It is read from memory that is shared with the programs, or where the library has not
// mapped that, as in a process that had no privilege when it first asked what the kernel can, by a system call.
func (s *set) lost() (n uint64, err error) {
	if s.collection.Variables["lost"].Get(&n) == nil {
		return n, nil
	}
	if err := s.collection.Maps[".bss"].Lookup(uint32(0), &n); err != nil {
		return 0, fmt.Errorf("read how many events were lost: %w", err)
	}
	return n, nil
}

// missed is how often the kernel skipped a program, Linux 5.12.
func (s *set) missed() (n uint64) {
	for _, program := range s.collection.Programs {
		if stats, err := program.Stats(); err == nil {
			n += stats.RecursionMisses
		}
	}
	return n
}

// detach takes the programs off their hooks. What they have sent stays in the ring.
func (s *set) detach() error {
	var errs []error
	for _, l := range slices.Backward(s.links) {
		errs = append(errs, l.Close())
	}
	s.links = nil
	return errors.Join(errs...)
}

func (s *set) close() error {
	err := s.detach()
	s.collection.Close()
	return err
}
