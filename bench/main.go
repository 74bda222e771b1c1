// Bench measures what sockwatch adds to what the kernel takes: the time from a process's death to the moment that its
// sock-file is gone, beside floor.c, a C program that does the same epoll and the same removal with nothing around them.
//
//	bench [-long] [-part floor|daemon|trace]
//
// Then the same for the daemon, beside package watch in a process of its own; with how many processes can be registered in a
// second, what each of them costs the daemon, what it does when there is nothing to do, and what it adds to the start of a command.
//
// Then what tracing costs: loop.c, a C program whose system calls are made while nobody traces, and while sockwatch, strace or bpftrace
// does; what the BPF programs and who reads what they tell take for each bind; and how long each takes until it traces. It is for root.
//
// Those that are compared take turns in one run, so that what else the machine does hits both alike. What counts are the ratios; the
// times themselves are those of one machine in one minute. A target that is missed is marked MISSED, and is no failure.
//
// The short form takes about five minutes on two cores, the long form longer. It needs a C compiler that is called gcc,
// 8,100 descriptors and 18,100 processes that the user may have. Interrupted, it leaves the processes to end by themselves.
// As root it also measures what other users register with root's daemon.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	// What it starts to be measured is this program again.
	switch {
	case len(os.Args) >= 5 && slices.Contains([]string{"watch", "burst", "client"}, os.Args[1]):
		exit(serve(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5:]...))
	case len(os.Args) == 4 && os.Args[1] == "hooks":
		exit(holdHooks(os.Args[2], os.Args[3] == "read"))
	}
	long := flag.Bool("long", false, "more rounds")
	part := flag.String("part", "", "measure one part alone: `floor`, daemon or trace")
	flag.Parse()
	if flag.NArg() > 0 || !slices.Contains([]string{"", "floor", "daemon", "trace"}, *part) {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	p := plan{rounds: 10, samples: 100, bursts: 3}
	if *long {
		p = plan{rounds: 60, samples: 200, bursts: 9}
	}
	exit(run(ctx, *part, p))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// plan is how much is measured.
type plan struct {
	rounds  int // turns of each program at each number watched, after one that does not count
	samples int // kills in each turn
	bursts  int // of each program
}

func run(ctx context.Context, part string, p plan) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, err := exec.LookPath("gcc"); err != nil {
		return fmt.Errorf("there is nothing to compare with: what is in C needs a compiler (apt-get install gcc libc6-dev): %w", err)
	}
	if err := printMachine(ctx, os.Stdout, dir); err != nil {
		return err
	}
	for _, each := range []struct {
		name    string
		measure func(ctx context.Context, p plan, dir string) (report, error)
	}{{"floor", besideFloor}, {"daemon", throughDaemon}, {"trace", whileTraced}} {
		if part != "" && part != each.name {
			continue
		}
		r, err := each.measure(ctx, p, dir)
		if err != nil {
			return err
		}
		if err := r.print(os.Stdout); err != nil {
			return err
		}
	}
	return nil
}

// report is what a part has measured.
type report interface{ print(out io.Writer) error }

// compile compiles a C program of this directory.
func compile(ctx context.Context, name, dir string) (string, error) {
	program, source := filepath.Join(dir, name), filepath.Join("bench", name+".c")
	cmd := exec.CommandContext(ctx, "gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", program, source)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("compile %s (run this in the module's directory): %w", source, err)
	}
	return program, nil
}

// commands are the two programs with the same arguments.
func commands(mode string, n int, floor, dir string) (c, sockwatch []string) {
	count := strconv.Itoa(n)
	return []string{floor, mode, count, dir}, []string{"/proc/self/exe", mode, count, dir, floor}
}
