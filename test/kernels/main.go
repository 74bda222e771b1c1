// Kernels runs the tests of packages on other kernels than this machine's: it boots Debian's cloud kernels in QEMU, by
// emulation, so that neither KVM nor root is needed, with an initramfs of busybox and statically linked test binaries.
//
//	kernels [-series "6.1 6.12"] [-limit 20m] [-run REGEXP] [-v] PACKAGE...
//
// The tests run as root, the guests side by side, each with one processor. It prints a line per kernel and package, what was skipped
// and why, and the output of what failed; it fails when a test did, when a kernel did not come to the end of its tests, and
// when a feature that the kernel is known to have was found missing.
//
// It needs the Debian packages qemu-system-x86 and busybox-static, and apt for fetching the kernels. Programs that tests
// use are put into the guest when they are installed here. Kernels are kept in .cache/kernels, beside what the last run of each said:
// console.log, and one log for each package.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var o options
	flag.StringVar(&o.series, "series", "6.1 6.12", "the `KERNELS`, by the first two numbers of their versions")
	flag.DurationVar(&o.limit, "limit", 20*time.Minute, "how long a guest may take")
	flag.StringVar(&o.run, "run", "", "run only tests that match `REGEXP`")
	flag.BoolVar(&o.verbose, "v", false, "tell the slowest tests, too")
	flag.Parse()
	o.packages = flag.Args()
	if len(o.packages) == 0 || o.series == "" {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

type options struct {
	series, run string
	packages    []string
	limit       time.Duration
	verbose     bool
}

const (
	cache = ".cache/kernels"
	// sideBySide is how many guests run at a time. Each keeps a processor busy.
	sideBySide = 2
)

func run(ctx context.Context, o options) error {
	kernels, err := findKernels(ctx, strings.Fields(o.series))
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "kernels")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	suites, err := buildSuites(ctx, o.packages, scratch)
	if err != nil {
		return err
	}
	for _, s := range suites {
		if s.skip != "" {
			fmt.Printf("%s: left out on every kernel, %s: %s\n", s.name, s.why, s.skip)
		}
	}

	fmt.Printf("%d kernels, %d at a time, %s for each\n", len(kernels), sideBySide, o.limit)
	runs := make([]guestRun, len(kernels))
	slots := make(chan struct{}, sideBySide)
	var all sync.WaitGroup
	for i, k := range kernels {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			runs[i] = runGuest(ctx, o, k, suites, scratch)
		})
	}
	all.Wait()

	printReport(os.Stdout, runs, o.verbose)
	var failures []error
	for _, r := range runs {
		failures = append(failures, r.failure())
	}
	return errors.Join(failures...)
}
