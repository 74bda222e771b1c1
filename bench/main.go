// Bench measures what sockwatch adds to what the kernel takes: the time from a process's death to the moment that its
// sock-file is gone, beside floor.c, a C program that does the same epoll and the same removal with nothing around them.
//
//	bench [-long]
//
// The two take turns in one run, so that what else the machine does hits both alike. What counts are the ratios; the
// times themselves are those of one machine in one minute. A target that is missed is marked MISSED, and is no failure.
//
// The short form takes one to two minutes on two cores, the long form several. It needs a C compiler that is called gcc,
// 8,100 descriptors and 18,100 processes that the user may have. Interrupted, it leaves the processes to end by themselves.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	// What it starts to be measured is this program again.
	if len(os.Args) == 5 && (os.Args[1] == "watch" || os.Args[1] == "burst") {
		exit(serve(os.Args[1], os.Args[2], os.Args[3], os.Args[4]))
	}
	long := flag.Bool("long", false, "more rounds")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	p := plan{rounds: 10, samples: 100, bursts: 3}
	if *long {
		p = plan{rounds: 60, samples: 200, bursts: 9}
	}
	exit(run(ctx, p))
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

func run(ctx context.Context, p plan) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	floor, err := buildFloor(ctx, dir)
	if err != nil {
		return err
	}
	if err := printMachine(ctx, os.Stdout, dir); err != nil {
		return err
	}
	deaths, heap, err := measureDeaths(ctx, p, floor, dir)
	if err != nil {
		return err
	}
	bursts, err := measureBursts(ctx, p, floor, dir)
	if err != nil {
		return err
	}
	return printReport(os.Stdout, deaths, heap, bursts)
}

// buildFloor compiles floor.c.
func buildFloor(ctx context.Context, dir string) (string, error) {
	if _, err := exec.LookPath("gcc"); err != nil {
		return "", fmt.Errorf("there is nothing to compare with: floor.c needs a C compiler (apt-get install gcc libc6-dev): %w", err)
	}
	floor := filepath.Join(dir, "floor")
	cmd := exec.CommandContext(ctx, "gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", floor, filepath.Join("bench", "floor.c"))
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("compile bench/floor.c (run this in the module's directory): %w", err)
	}
	return floor, nil
}

// commands are the two programs with the same arguments.
func commands(mode string, n int, floor, dir string) (c, sockwatch []string) {
	count := strconv.Itoa(n)
	return []string{floor, mode, count, dir}, []string{"/proc/self/exe", mode, count, dir, floor}
}
