// Bench measures what sockwatch adds to what the kernel takes: the time from a process's death to the moment that its
// sock-file is gone, beside floor.c, a C program that does the same epoll and the same removal with nothing around them.
//
//	bench [-long] [-part floor|daemon]
//
// Then the same for the daemon, beside package watch in a process of its own; with how many processes can be registered in a
// second, what each of them costs the daemon, what it does when there is nothing to do, and what it adds to the start of a command.
//
// Those that are compared take turns in one run, so that what else the machine does hits both alike. What counts are the ratios; the
// times themselves are those of one machine in one minute. A target that is missed is marked MISSED, and is no failure.
//
// The short form takes about four minutes on two cores, the long form longer. It needs a C compiler that is called gcc,
// 8,100 descriptors and 18,100 processes that the user may have. Interrupted, it leaves the processes to end by themselves.
// As root it also measures what other users register with root's daemon.
package main

import (
	"context"
	"flag"
	"fmt"
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
	if len(os.Args) >= 5 && slices.Contains([]string{"watch", "burst", "client"}, os.Args[1]) {
		exit(serve(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5:]...))
	}
	long := flag.Bool("long", false, "more rounds")
	part := flag.String("part", "", "measure one part alone: `floor` or daemon")
	flag.Parse()
	if flag.NArg() > 0 || !slices.Contains([]string{"", "floor", "daemon"}, *part) {
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
	floor, err := buildFloor(ctx, dir)
	if err != nil {
		return err
	}
	if err := printMachine(ctx, os.Stdout, dir); err != nil {
		return err
	}
	if part != "daemon" {
		deaths, heap, err := measureDeaths(ctx, p, floor, dir)
		if err != nil {
			return err
		}
		bursts, err := measureBursts(ctx, p, floor, dir)
		if err != nil {
			return err
		}
		if err := printReport(os.Stdout, deaths, heap, bursts); err != nil {
			return err
		}
	}
	if part == "floor" {
		return nil
	}
	t, err := measureDaemon(ctx, p, floor, dir)
	if err != nil {
		return err
	}
	return t.print(os.Stdout)
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
