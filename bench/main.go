// Bench measures what sockwatch costs, and what other ways of removing a dead process's sock-file do: it writes docs/benchmarks.md.
//
//	bench [-long] [-install] [-o DIR] [-part peers|many|sweep|starts|daemon|trace|document]
//
// Its parts, of which each can be run alone:
//
//	peers     from kill -9 until the sock-file is gone, by sockwatch, by parents in Go and Python, by supervisors and by a poller
//	many      the same with 1 to 9,000 processes, and all at once, by package watch and by the daemon
//	sweep     removing thousands of dead sock-files
//	starts    how long commands take, and the size of the program
//	daemon    the daemon beside package watch: exits, registering, memory, idleness
//	trace     what tracing costs others
//	document  nothing: the document is made of the results that there are
//
// What is measured is compared with floor.c, a C program that does the same epoll and the same removal with nothing around them: the
// floor. Those that are compared take turns in one run, so that what else the machine does hits both alike. What counts are the ratios;
// the times themselves are those of one machine in one minute. A target that is missed is marked, and is no failure.
//
// What a part has measured is kept in bench/results/PART.json, and the document is made of all that is there and of the texts in
// bench/text. The pictures are drawn of the same files by tools/plot.
//
// It needs a C compiler that is called gcc, 18,100 processes that the user may have and 9,100 descriptors. Of the others, what is missing
// is left out, and the document says so; with -install root has apt-get install it. Interrupted, it leaves the processes to end by
// themselves. As root it measures also what other users register with root's daemon, and tracing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// part is what can be measured by itself.
type part struct {
	name    string
	measure func(ctx context.Context, p plan, dir string) (*record, error)
}

var parts = []part{
	{"peers", besidePeers},
	{"many", ofMany},
	{"sweep", sweeping},
	{"starts", startingUp},
	{"daemon", throughDaemon},
	{"trace", whileTraced},
}

// onlyDocument is the part in which nothing is measured.
const onlyDocument = "document"

func main() {
	if len(os.Args) > 1 {
		if r, is := roles[os.Args[1]]; is && len(os.Args) > r.arguments+1 { // what it starts to be measured is this program again
			exit(r.play(os.Args[1:]))
		}
	}
	long := flag.Bool("long", false, "more rounds")
	try := flag.Bool("try", false, "as little as shows that it works; its numbers are no result, so it needs -o")
	install := flag.Bool("install", false, "as root, have apt-get install what is missing of what is compared")
	out := flag.String("o", ".", "write bench/results and docs/benchmarks.md below `DIR`")
	name := flag.String("part", "", "measure one `PART` alone")
	flag.Parse()
	known := *name == "" || *name == onlyDocument || slices.ContainsFunc(parts, func(p part) bool { return p.name == *name })
	if flag.NArg() > 0 || !known || *try && *out == "." {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	p := plan{rounds: 10, samples: 100, bursts: 3, watched: watched, inBurst: inBurst}
	switch {
	case *long:
		p.rounds, p.samples, p.bursts, p.long = 60, 200, 9, true
	case *try:
		p = plan{rounds: 1, samples: 30, bursts: 1, watched: []int{1, 10, strangersWatched}, inBurst: 100}
	}
	if *install {
		installMissing(ctx)
	}
	exit(run(ctx, *name, p, *out))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// role is what this program is when it is started to be measured. It gets its name and at least so many arguments.
type role struct {
	arguments int
	play      func(args []string) error
}

var roles = map[string]role{
	"watch":     {3, serve},
	outside:     {3, serve},
	"strangers": {3, serve},
	"burst":     {3, serve},
	"client":    {4, serve},
	clientBurst: {4, serve},
	"nursery":   {1, func(args []string) error { return nurse(args[1]) }},
	"killer":    {0, func([]string) error { return killAsTold() }},
	"guard":     {1, func(args []string) error { return guardServers(args[1]) }},
	"parent":    {3, func(args []string) error { return waitAndRemove(args[1:]) }},
	"sweep":     {1, func(args []string) error { return sweepOnce(context.Background(), args[1]) }},
	"hooks":     {2, func(args []string) error { return holdHooks(args[1], args[2] == "read") }},
}

// plan is how much is measured.
type plan struct {
	rounds  int // turns of each program at each number watched, after one that does not count
	samples int // kills in each turn
	bursts  int // of each program
	watched []int
	inBurst int // how many are killed at once
	long    bool
}

func run(ctx context.Context, name string, p plan, out string) error {
	if _, err := exec.LookPath("gcc"); err != nil {
		return fmt.Errorf("there is nothing to compare with: what is in C needs a compiler (apt-get install gcc libc6-dev): %w", err)
	}
	results := filepath.Join(out, "bench", "results")
	for _, each := range parts {
		if name != "" && name != each.name {
			continue
		}
		if err := each.run(ctx, p, results); err != nil {
			return fmt.Errorf("%s: %w", each.name, err)
		}
	}
	return writeDocument(results, filepath.Join(out, "docs"))
}

// run measures a part and keeps what came of it.
func (each part) run(ctx context.Context, p plan, results string) (err error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { // for other users
		return err
	}
	begin := time.Now()
	var load [2]string
	if load[0], err = loadAverage(); err != nil {
		return err
	}
	r, err := each.measure(ctx, p, dir)
	if err != nil {
		return err
	}
	if load[1], err = loadAverage(); err != nil {
		return err
	}
	r.Part, r.Load, r.Versions, r.Date = each.name, load, versions(ctx, each.name), begin.UTC().Format(time.DateOnly)
	r.Command = "make bench PART=" + each.name
	if p.long {
		r.Command += " LONG=1"
	}
	if r.Machine, err = machine(ctx, dir); err != nil {
		return err
	}
	fmt.Printf("\n%s: %s; load average %s before, %s after; took %s\n", each.name, r.Machine, load[0], load[1],
		time.Since(begin).Round(time.Second))
	err = r.print(os.Stdout)
	if len(r.Tables) == 0 { // nothing was measured here; what was measured elsewhere stays
		return err
	}
	return errors.Join(err, r.keep(results))
}

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
