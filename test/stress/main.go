// Stress looks for live sockets that are lost to races: it has servers rebind one path within microseconds, again and
// again, and removers after their sock-files all the time. The same is done with sockwatch's removal and with two
// controls, ways of removal that are known to lose live sockets now and then: a harness that does not catch those has
// proved nothing about sockwatch.
//
//	stress [-long] [-dir DIR]...
//
// It prints a line per trial: how many lives the servers had, how many sock-files were removed and how many were kept
// for whatever reason, and in how many lives the live server's own sock-file was removed: the losses. It fails if
// sockwatch lost one.
//
// The short form takes 20 seconds. The long form takes as long as sockwatch needs for a million removals, six minutes
// on two free cores, and also fails if a control lost nothing on ext4. Without -dir it works on ext4 and on tmpfs, where
// it finds them.
//
// With CAP_NET_ADMIN a server knows its own sock-file whatever became of the name. Without, one that is lost
// before its server has found it costs two seconds, and so the controls lose fewer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var dirs []string
	long := flag.Bool("long", false, "a million removals, and the controls must lose sockets")
	flag.Func("dir", "work in `DIR`; may be given several times", func(dir string) error {
		dirs = append(dirs, dir)
		return nil
	})
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, dirs, *long); err != nil {
		fmt.Fprintln(os.Stderr, "stress:", err)
		os.Exit(1)
	}
}

// million is how many sock-files sockwatch has to have removed in the long form, all filesystems together.
const million = 1_000_000

func run(ctx context.Context, dirs []string, long bool) error {
	places, err := findPlaces(dirs)
	if err != nil {
		return err
	}
	var failures []error
	var removals uint64
	start := time.Now()
	fmt.Println(header)
	for _, t := range trials(places, long) {
		r, err := t.run(ctx)
		if err != nil {
			return fmt.Errorf("%v: %w", t, err)
		}
		fmt.Println(t.row(r))
		losses := r.losses.Load()
		switch {
		case !t.strategy.control:
			removals += r.removals.Load()
			if losses > 0 {
				failures = append(failures, fmt.Errorf("%v: %d live sockets lost", t, losses))
			}
		case long && t.place.filesystem == "ext4" && losses == 0:
			failures = append(failures, fmt.Errorf("%v: lost no live socket, so that these trials prove nothing", t))
		}
	}
	fmt.Printf("sockwatch removed %d sock-files; all took %v\n", removals, time.Since(start).Round(time.Second))
	if long && removals < million {
		failures = append(failures, fmt.Errorf("sockwatch removed %d sock-files in the time, a million were to be", removals))
	}
	return errors.Join(failures...)
}
