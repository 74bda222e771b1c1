// Chaos looks for sock-files that the daemon loses: live ones that it removes, and dead ones that it forgets when it is killed
// itself. Hundreds of processes bind, register in every way there is, fork children that inherit the listener, bind their
// path anew, close, and die by SIGKILL, on the same paths again and again, while `sockwatch daemon` is killed with SIGKILL at
// random instants and started again, several times a second.
//
//	chaos [-long] [-dir DIR]... SOCKWATCH
//
// SOCKWATCH is the program under test, such as bin/sockwatch. Each server holds its own sock-file pinned and looks all the time whether it has
// lost its last link, and, right before it kills itself, whether it still has its name: those are the losses. Of what has died
// registered, the next server of the path clears half away and relies on the daemon for the other half, which then must
// happen. In the end the directories must be empty, private names included, and so must be the daemon's records.
//
// It prints a line per directory and fails if anything was lost or left. The short form has 2,000 deaths in each, the long
// form 100,000 in all. Without -dir it works on ext4 and on tmpfs, where it finds them; the daemon's runtime directory is on tmpfs, if
// there is one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if name, ok := os.LookupEnv(roleEnv); ok {
		play(name)
	}
	var dirs []string
	long := flag.Bool("long", false, "100,000 deaths")
	flag.Func("dir", "work in `DIR`; may be given several times", func(dir string) error {
		dirs = append(dirs, dir)
		return nil
	})
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: chaos [-long] [-dir DIR]... SOCKWATCH")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Arg(0), dirs, *long); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

const (
	shortDeaths = 2_000 // in each directory
	longDeaths  = 100_000
)

func run(ctx context.Context, sockwatch string, dirs []string, long bool) error {
	sockwatch, err := filepath.Abs(sockwatch)
	if err != nil {
		return err
	}
	if len(dirs) == 0 {
		dirs = findDirs()
	}
	if len(dirs) == 0 {
		return errors.New("found no directory on ext4 or tmpfs: name one with -dir")
	}
	deaths := shortDeaths
	if long {
		deaths = (longDeaths + len(dirs) - 1) / len(dirs)
	}
	var errs []error
	for _, dir := range dirs {
		if ctx.Err() != nil {
			break
		}
		r, err := campaign(ctx, plan{daemon: []string{sockwatch, "daemon"}, dir: dir, deaths: deaths, lanes: 200, steady: 40})
		fmt.Printf("%s: %v\n", dir, r)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// findDirs gives a directory on ext4 and one on tmpfs, where there are any.
func findDirs() (dirs []string) {
	for _, magic := range []int64{unix.EXT4_SUPER_MAGIC, unix.TMPFS_MAGIC} {
		for _, dir := range []string{os.TempDir(), "/var/tmp", "/dev/shm"} {
			var st unix.Statfs_t
			if unix.Statfs(dir, &st) == nil && int64(st.Type) == magic && unix.Access(dir, unix.W_OK) == nil {
				dirs = append(dirs, dir)
				break
			}
		}
	}
	return dirs
}

// result is what happened in a directory.
type result struct {
	deaths  uint64 // processes that ended without clearing up
	heirs   uint64 // of these, children that had inherited the listener
	closed  uint64 // servers that cleared up
	relied  uint64 // files that had to be removed by the daemon before the next server started
	kills   uint64 // of the daemon
	losses  uint64 // live files that were removed, or have lost their name for good
	left    int    // dead files, and private names, in the end
	records int    // of the daemon, in the end
	took    time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("%d deaths, %d of them of heirs; %d servers closed; the daemon was killed %d times; %d files awaited; "+
		"%d live ones lost, %d dead ones left, %d records left; %v",
		r.deaths, r.heirs, r.closed, r.kills, r.relied, r.losses, r.left, r.records, r.took.Round(time.Second))
}
