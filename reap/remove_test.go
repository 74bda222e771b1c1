package reap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestRemove(t *testing.T) {
	for kindName, kind := range socketKinds {
		for _, seen := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, seen alive %v", kindName, seen), func(t *testing.T) {
				dir := testutil.TempDir(t)
				path := filepath.Join(dir, "s")
				s := bindSocket(t, path, kind)
				f := openFile(t, path)
				if seen {
					checkRemoval(t, f, want{outcome: OutcomeAlive})
				}
				s.die()
				bystander := bindSocket(t, filepath.Join(dir, "bystander"), kind)
				leaveDead(t, filepath.Join(dir, "dead bystander"))
				checkRemoval(t, f, want{outcome: OutcomeRemoved})
				checkRemoval(t, f, want{outcome: OutcomeGone})
				wantNames(t, dir, "bystander", "dead bystander")
				bystander.die()

				// The name can be bound again at once, and is another's then.
				again := bindSocket(t, path, kind)
				checkRemoval(t, f, want{outcome: OutcomeReplaced})
				again.die()
				checkRemoval(t, f, want{outcome: OutcomeReplaced})
				wantNames(t, dir, "s", "bystander", "dead bystander")
			})
		}
	}
}

// TestRemoveFindsOtherNames: what was renamed or linked inside its directory is still the claimed file.
func TestRemoveFindsOtherNames(t *testing.T) {
	type names = []string
	for _, tt := range []struct {
		what   string
		change func(path func(string) string) error
		want   want // seen alive
		unseen want
		left   names
		kept   names // of those that were never seen alive
	}{
		{
			what:   "renamed",
			change: func(p func(string) string) error { return os.Rename(p("s"), p("t")) },
			want:   want{outcome: OutcomeRemoved},
			unseen: want{outcome: OutcomeRemoved},
		}, {
			what: "renamed, another file in its place",
			change: func(p func(string) string) error {
				return errors.Join(os.Rename(p("s"), p("t")), os.WriteFile(p("s"), nil, 0o600))
			},
			want:   want{outcome: OutcomeRemoved},
			unseen: want{outcome: OutcomeRemoved},
			left:   names{"s"},
			kept:   names{"s"},
		}, {
			what: "renamed, a directory in its place",
			change: func(p func(string) string) error {
				return errors.Join(os.Rename(p("s"), p("t")), os.Mkdir(p("s"), 0o700))
			},
			want:   want{outcome: OutcomeRemoved},
			unseen: want{outcome: OutcomeRemoved},
			left:   names{"s"},
			kept:   names{"s"},
		}, {
			what:   "linked",
			change: func(p func(string) string) error { return os.Link(p("s"), p("t")) },
			want:   want{outcome: OutcomeRemoved},
			unseen: want{OutcomeRefused, ReasonHardLinked, ErrRefused},
			kept:   names{"s", "t"},
		}, {
			what: "linked often, its own name gone",
			change: func(p func(string) string) error {
				return errors.Join(os.Link(p("s"), p("t")), os.Link(p("s"), p("u")), os.Link(p("s"), p("v")), os.Remove(p("s")))
			},
			want:   want{outcome: OutcomeRemoved},
			unseen: want{OutcomeRefused, ReasonHardLinked, ErrRefused},
			kept:   names{"t", "u", "v"},
		}, {
			what: "linked, first name unlinked", // as ssh's ControlMaster does it
			change: func(p func(string) string) error {
				return errors.Join(os.Link(p("s"), p("control.Rv4XXXX")), os.Remove(p("s")))
			},
			want:   want{outcome: OutcomeRemoved},
			unseen: want{outcome: OutcomeRemoved},
		}, {
			what:   "linked elsewhere",
			change: func(p func(string) string) error { return os.Link(p("s"), p("../t")) },
			want:   want{outcome: OutcomeRemoved}, // from this directory
			unseen: want{OutcomeRefused, ReasonHardLinked, ErrRefused},
			kept:   names{"s"},
		}, {
			what:   "renamed elsewhere",
			change: func(p func(string) string) error { return os.Rename(p("s"), p("../t")) },
			want:   want{outcome: OutcomeGone},
			unseen: want{outcome: OutcomeGone},
		}, {
			what:   "under a private name", // a remover was killed
			change: func(p func(string) string) error { return os.Rename(p("s"), p(absentName())) },
			want:   want{outcome: OutcomeRemoved},
			unseen: want{outcome: OutcomeRemoved},
		},
	} {
		t.Run(tt.what, func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
				dir := filepath.Join(testutil.TempDir(t), "d")
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				f := open(t, filepath.Join(dir, "s"))
				if err := tt.change(func(name string) string { return filepath.Join(dir, name) }); err != nil {
					t.Fatal(err)
				}
				if f.alive.Load() {
					checkRemoval(t, f, tt.want)
					wantNames(t, dir, tt.left...)
				} else {
					checkRemoval(t, f, tt.unseen)
					wantNames(t, dir, tt.kept...)
				}
			})
		})
	}
}

// TestRemoveFindsTheLiveOne: a live socket is found under its new name, too, and kept.
func TestRemoveFindsTheLiveOne(t *testing.T) {
	dir := testutil.TempDir(t)
	path := filepath.Join(dir, "s")
	s := bindSocket(t, path, unix.SOCK_STREAM)
	f := openFile(t, path)
	if err := os.Rename(path, path+"2"); err != nil {
		t.Fatal(err)
	}
	checkRemoval(t, f, want{outcome: OutcomeAlive})
	leaveDead(t, path)
	checkRemoval(t, f, want{outcome: OutcomeAlive})
	wantNames(t, dir, "s", "s2")
	s.die()
	checkRemoval(t, f, want{outcome: OutcomeRemoved})
	wantNames(t, dir, "s")
}

// TestCommit is asked once, right before the directory changes.
func TestCommit(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		dir := testutil.TempDir(t)
		f := open(t, filepath.Join(dir, "s"))
		watch := watchDir(t, dir)
		before := listing(t, f)

		asked := 0
		r := f.Remove(RemoveOptions{Commit: func() bool { asked++; return false }})
		checkResult(t, r, want{OutcomeUnknown, ReasonNone, ErrAborted})
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
		if after := listing(t, f); !slices.Equal(before, after) {
			t.Errorf("%q became %q", before, after)
		}
		if events := watch(); events != nil {
			t.Errorf("events %q after an abort", events)
		}

		r = f.Remove(RemoveOptions{Commit: func() bool {
			asked++
			if now := listing(t, f); !slices.Equal(before, now) {
				t.Errorf("%q became %q before the commit", before, now)
			}
			if events := watch(); events != nil {
				t.Errorf("events %q before the commit", events)
			}
			return true
		}})
		checkResult(t, r, want{outcome: OutcomeRemoved})
		if asked != 2 {
			t.Errorf("asked %d times", asked)
		}
		private := "/" + privatePrefix
		events := watch()
		if len(events) != 3 || events[0] != "moved from/s" || !strings.HasPrefix(events[1], "moved to"+private) || events[2] != "delete"+events[1][len("moved to"):] {
			t.Errorf("events %q", events)
		}
		wantNames(t, dir)
	})
}

// TestCommitIsNotAsked when there is nothing to commit to.
func TestCommitIsNotAsked(t *testing.T) {
	dir := testutil.TempDir(t)
	never := RemoveOptions{Commit: func() bool { t.Error("asked"); return true }}
	path := filepath.Join(dir, "s")
	s := bindSocket(t, path, unix.SOCK_STREAM)
	f := openFile(t, path)
	checkResult(t, f.Remove(never), want{outcome: OutcomeAlive})
	s.die()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	checkResult(t, f.Remove(never), want{outcome: OutcomeGone})
	leaveDead(t, path)
	checkResult(t, f.Remove(never), want{outcome: OutcomeReplaced})
	g := openFile(t, path)
	if err := os.Link(path, path+"2"); err != nil {
		t.Fatal(err)
	}
	checkResult(t, g.Remove(never), want{OutcomeRefused, ReasonHardLinked, ErrRefused})
}

// TestCommitForEachName asks for all names of an inode.
func TestCommitForEachName(t *testing.T) {
	dir := testutil.TempDir(t)
	path := filepath.Join(dir, "s")
	f := openSeenAlive(t, path)
	for _, more := range []string{"t", "u"} {
		if err := os.Link(path, filepath.Join(dir, more)); err != nil {
			t.Fatal(err)
		}
	}
	asked := 0
	checkResult(t, f.Remove(RemoveOptions{Commit: func() bool { asked++; return true }}), want{outcome: OutcomeRemoved})
	if asked != 3 {
		t.Errorf("asked %d times for 3 names", asked)
	}
	wantNames(t, dir)
}

// TestReplacedAfterCommit puts something else at the name between the last look and the rename.
func TestReplacedAfterCommit(t *testing.T) {
	for what, replace := range map[string]func(t *testing.T, path string){
		"live socket":   func(t *testing.T, path string) { bindSocket(t, path, unix.SOCK_STREAM) },
		"dead socket":   func(t *testing.T, path string) { leaveDead(t, path) },
		"regular file":  func(t *testing.T, path string) { must(t, os.WriteFile(path, nil, 0o600)) },
		"directory":     func(t *testing.T, path string) { must(t, os.MkdirAll(path+"/full", 0o700)) },
		"symlink":       func(t *testing.T, path string) { must(t, os.Symlink("elsewhere", path)) },
		"fifo":          func(t *testing.T, path string) { must(t, unix.Mkfifo(path, 0o600)) },
		"bound in bind": func(t *testing.T, path string) { bindSocket(t, path, unix.SOCK_DGRAM) },
	} {
		t.Run(what, func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
				dir := testutil.TempDir(t)
				path := filepath.Join(dir, "s")
				f := open(t, path)
				var kept witness
				r := f.Remove(RemoveOptions{Commit: func() bool {
					must(t, os.Remove(path))
					replace(t, path)
					kept = pinInode(t, path)
					return true
				}})
				checkResult(t, r, want{outcome: OutcomeReplaced})
				if !kept.at(path) {
					t.Error("it lost its name")
				}
				wantNames(t, dir, "s")
			})
		})
	}
}

// watchDir gives a function that tells what happened to the entries of a directory since it was called last.
func watchDir(t *testing.T, dir string) func() []string {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	names := map[uint32]string{
		unix.IN_CREATE: "create", unix.IN_DELETE: "delete", unix.IN_MOVED_FROM: "moved from", unix.IN_MOVED_TO: "moved to",
		unix.IN_ATTRIB: "attrib", unix.IN_MODIFY: "modify",
	}
	var mask uint32
	for bit := range names {
		mask |= bit
	}
	_, err = unix.InotifyAddWatch(fd, dir, mask)
	must(t, err)
	return func() (events []string) {
		buf := make([]byte, 64<<10)
		n, err := unix.Read(fd, buf)
		if err == unix.EAGAIN {
			return nil
		}
		must(t, err)
		for b := buf[:n]; len(b) > 0; {
			size := int(b[12]) | int(b[13])<<8
			name, _, _ := strings.Cut(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size]), "\x00")
			mask := uint32(b[4]) | uint32(b[5])<<8
			events = append(events, names[mask]+"/"+name)
			b = b[unix.SizeofInotifyEvent+size:]
		}
		return events
	}
}

// TestNoReplaceMissing is about filesystems that know no RENAME_NOREPLACE.
func TestNoReplaceMissing(t *testing.T) {
	noFlags := func(c call) unix.Errno {
		if c.nr == unix.SYS_RENAMEAT2 && c.args[4] != 0 {
			return unix.EINVAL
		}
		return 0
	}
	noLinks := func(errno unix.Errno) func(call) unix.Errno {
		return func(c call) unix.Errno {
			if c.nr == unix.SYS_LINKAT {
				return errno
			}
			return noFlags(c)
		}
	}
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		t.Run("links", func(t *testing.T) {
			dir := testutil.TempDir(t)
			f := open(t, filepath.Join(dir, "s"))
			intercepted(t, noFlags, func() { checkRemoval(t, f, want{outcome: OutcomeRemoved}) })
			wantNames(t, dir)
		})
		t.Run("replaced after commit", func(t *testing.T) {
			dir := testutil.TempDir(t)
			path := filepath.Join(dir, "s")
			f := open(t, path)
			var kept witness
			intercepted(t, noFlags, func() {
				r := f.Remove(RemoveOptions{Commit: func() bool {
					unlinkElsewhere(t, path)
					bindSocket(t, path, unix.SOCK_STREAM)
					return true
				}})
				checkResult(t, r, want{outcome: OutcomeReplaced})
			})
			kept = pinInode(t, path)
			if !kept.at(path) || kept.links() != 1 {
				t.Errorf("it has %d links", kept.links())
			}
			wantNames(t, dir, "s")
		})
		for _, errno := range []unix.Errno{unix.EPERM, unix.EOPNOTSUPP, unix.EMLINK, unix.ENOSYS} {
			t.Run("no links: "+unix.ErrnoName(errno), func(t *testing.T) {
				dir := testutil.TempDir(t)
				f := open(t, filepath.Join(dir, "s"))
				before := listing(t, f)
				intercepted(t, noLinks(errno), func() {
					// Nothing tells of this beforehand.
					checkResult(t, f.Remove(RemoveOptions{}), want{OutcomeRefused, ReasonPermission, errno})
				})
				if after := listing(t, f); !slices.Equal(before, after) {
					t.Errorf("changed %q to %q", before, after)
				}
			})
		}
	})
}

// unlinkElsewhere is os.Remove by another thread than the caller's, which is under intercept.
func unlinkElsewhere(t *testing.T, path string) {
	t.Helper()
	done := make(chan error)
	go func() { done <- os.Remove(path) }()
	must(t, <-done)
}

// TestPrivateNameIsTaken has a live server sit on the very name that the removal chose.
func TestPrivateNameIsTaken(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		dir := testutil.TempDir(t)
		f := open(t, filepath.Join(dir, "s"))
		var taken []witness
		var r Result
		intercepted(t, func(c call) unix.Errno {
			if c.nr == unix.SYS_RENAMEAT2 && len(taken) < 3 {
				private := filepath.Join(dir, c.name(3))
				bindSocket(t, private, unix.SOCK_STREAM)
				taken = append(taken, pinInode(t, private))
			}
			return 0
		}, func() { r = f.Remove(RemoveOptions{}) })
		checkResult(t, r, want{outcome: OutcomeRemoved})
		if len(taken) != 3 {
			t.Errorf("%d names were tried", len(taken))
		}
		for _, w := range taken {
			if w.links() != 1 {
				t.Error("a live socket lost its name")
			}
		}
		if left := privateNames(t, dir); len(left) != len(taken) {
			t.Errorf("left: %q", left)
		}
	})
}

// TestEveryCallFails gives each call of a removal each error in turn: what is kept keeps its name, and a Result says why.
func TestEveryCallFails(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.EACCES, unix.EPERM, unix.EROFS, unix.EBUSY, unix.ENOSPC, unix.EDQUOT, unix.ESTALE, unix.ENOSYS} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
				for fail := 1; ; fail++ {
					dir := testutil.TempDir(t)
					path := filepath.Join(dir, "s")
					f := open(t, path)
					w := pinInode(t, path)
					n := 0
					var failed call
					var r Result
					intercepted(t, func(c call) unix.Errno {
						if n++; n == fail {
							failed = c
							return errno
						}
						return 0
					}, func() { r = f.Remove(RemoveOptions{}) })
					if n < fail {
						checkResult(t, r, want{outcome: OutcomeRemoved})
						break
					}
					if r.Outcome == OutcomeRemoved || r.Outcome == OutcomeGone {
						if w.links() != 0 {
							t.Errorf("call %d (%d): %v, and the file is there", fail, failed.nr, r.Outcome)
						}
						continue
					}
					if !w.at(path) || w.links() != 1 {
						t.Errorf("call %d (%d): %v %q, %v, and the file has lost its name", fail, failed.nr, r.Outcome, r.Reason, r.Err)
					}
					if left := privateNames(t, dir); left != nil {
						t.Errorf("call %d (%d): left %q", fail, failed.nr, left)
					}
					if r.Outcome != OutcomeAlive && r.Err == nil && r.Outcome != OutcomeReplaced {
						t.Errorf("call %d (%d): %v %q without an error", fail, failed.nr, r.Outcome, r.Reason)
					}
				}
			})
		})
	}
}

// TestSearchFails: that a name is gone is not yet the end of the file, when nobody could look for another.
func TestSearchFails(t *testing.T) {
	for _, nr := range []uintptr{unix.SYS_OPENAT, unix.SYS_GETDENTS64} {
		for _, errno := range []unix.Errno{unix.EMFILE, unix.EIO} {
			dir := testutil.TempDir(t)
			path := filepath.Join(dir, "s")
			f := openSeenAlive(t, path)
			must(t, os.Rename(path, path+"2"))
			opened := 0
			intercepted(t, func(c call) unix.Errno {
				if c.nr == unix.SYS_OPENAT {
					opened++
				}
				if c.nr == nr && opened == 2 { // the first was for the name
					return errno
				}
				return 0
			}, func() { checkResult(t, f.Remove(RemoveOptions{}), want{OutcomeFailed, ReasonNone, errno}) })
			wantNames(t, dir, "s2")
		}
	}
}

func init() { helpers["remove-without-descriptors"] = removeWithoutDescriptors }

// removeWithoutDescriptors removes a file with 0 descriptors to be had, then with 1 and so on, until it is gone.
func removeWithoutDescriptors() {
	f, err := Open(os.Args[1])
	if err != nil {
		fmt.Println(err)
		return
	}
	if os.Args[2] == "seen" {
		f.alive.Store(true)
	}
	var limit unix.Rlimit
	if os.Args[2] != "seen" {
		// To look for overlays takes the runtime's poller, which cannot be made without descriptors. The removal
		// itself does without.
		r, w, err := os.Pipe()
		if err != nil {
			fmt.Println(err)
			return
		}
		r.Close()
		w.Close()
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		fmt.Println(err)
		return
	}
	limit.Cur = 64
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		fmt.Println(err)
		return
	}
	var ballast []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		ballast = append(ballast, fd)
	}
	for {
		dry := f.Remove(RemoveOptions{DryRun: true})
		r := f.Remove(RemoveOptions{})
		_, err := os.Lstat(os.Args[1])
		fmt.Println(dry.Outcome, r.Outcome, errors.Is(r.Err, unix.EMFILE), err == nil)
		if r.Outcome == OutcomeRemoved || len(ballast) == 0 {
			return
		}
		unix.Close(ballast[0])
		ballast = ballast[1:]
	}
}

func TestNoDescriptors(t *testing.T) {
	for _, seen := range []string{"seen", "unseen"} {
		dir := testutil.TempDir(t)
		path := filepath.Join(dir, "s")
		leaveDead(t, path)
		child := testutil.Start(t, testutil.Command(t, "remove-without-descriptors", path, seen))
		for n := 0; ; n++ {
			line := child.Line()
			if line == "removed removed false false" {
				break
			}
			// Refused: it could not be seen whether this is a layer of an overlay.
			if line != "failed failed true true" && (seen == "seen" || line != "refused refused false true") {
				t.Fatalf("with %d descriptors: %s", n, line)
			}
		}
		wantNames(t, dir)
	}
}

// TestManyRemovers has one file removed by many at once: one of them did it, for the others it is gone.
func TestManyRemovers(t *testing.T) {
	for _, shared := range []bool{true, false} {
		t.Run(fmt.Sprintf("one File %v", shared), func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
				dir := testutil.TempDir(t)
				path := filepath.Join(dir, "some-server@1.sock")
				for range 100 {
					f := open(t, path)
					const removers = 8
					var removed atomic.Int64
					var ready, all sync.WaitGroup
					ready.Add(removers)
					for range removers {
						mine := f
						if !shared {
							mine = openFile(t, path)
							mine.alive.Store(f.alive.Load())
						}
						all.Go(func() {
							ready.Done()
							ready.Wait()
							r := mine.Remove(RemoveOptions{})
							if r.Outcome == OutcomeRemoved {
								removed.Add(1)
							} else {
								checkResult(t, r, want{outcome: OutcomeGone})
							}
						})
					}
					all.Wait()
					if removed.Load() != 1 {
						t.Fatalf("%d removed it", removed.Load())
					}
					wantNames(t, dir)
				}
			})
		})
	}
}

// TestRemoveWhileServersRebind has servers come and go under one name, as fast as they can, and removers that take each for
// theirs.
func TestRemoveWhileServersRebind(t *testing.T) {
	for _, feature := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		t.Run(feature.String(), func(t *testing.T) {
			dir := testutil.Dir(t, feature)
			path := filepath.Join(dir, "rebound@1.sock")
			const lives = 3_000
			var stop atomic.Bool
			var removers sync.WaitGroup
			for range 2 {
				removers.Go(func() {
					for !stop.Load() {
						f, err := Open(path)
						if err != nil {
							if !errors.Is(err, fs.ErrNotExist) {
								t.Error(err)
								return
							}
							continue
						}
						r := f.Remove(RemoveOptions{})
						if !r.Outcome.OK() {
							t.Errorf("%v %q, %v", r.Outcome, r.Reason, r.Err)
						}
						f.Close()
					}
				})
			}
			lost := 0
			for i := range lives {
				s, err := tryBind(path, unix.SOCK_STREAM)
				if errors.Is(err, unix.EADDRINUSE) { // the predecessor's, still there
					if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Fatal(err)
					}
					continue
				}
				must(t, err)
				if !leadsTo(s) {
					lost++
				}
				s.die()
				if i%2 == 0 { // a graceful one
					if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Fatal(err)
					}
				}
			}
			stop.Store(true)
			removers.Wait()
			if lost > 0 {
				t.Errorf("%d of %d lives lost", lost, lives)
			}
		})
	}
}

// leadsTo tells whether the server's path leads to it. While a remover looks at it the name is away for a moment.
func leadsTo(s *boundSocket) bool {
	for begun := time.Now(); time.Since(begun) < time.Minute; {
		// A socket that does not listen refuses, as a dead one does; a datagram socket is told that the type is wrong.
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return false
		}
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: s.path})
		unix.Close(fd)
		if err == unix.EPROTOTYPE {
			return true
		}
		runtime.Gosched()
	}
	return false
}

// TestInterleaved stops a removal before each of its calls and has somebody else do something then, and once more before a
// later one. Whatever that is: nobody else's file loses its name, and the Result is true.
func TestInterleaved(t *testing.T) {
	// Of the pairs, those whose first may lead the removal elsewhere and whose second may meet it there.
	earlier := []string{"rebind", "rename", "unlink", "another remover"}
	later := []string{"rebind", "take", "rename back", "link", "unlink", "another remover"}
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		dir := testutil.Dir(t, testutil.Tmpfs)
		var (
			mu sync.Mutex // only the kernel knows that the two never work at once
			w  *world
		)
		removals := make(chan *world)
		removed := make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() {
			intercepted(t, func(call) unix.Errno {
				mu.Lock()
				defer mu.Unlock()
				w.interfere()
				return 0
			}, func() {
				for w := range removals {
					w.result = w.file.Remove(RemoveOptions{})
					removed <- struct{}{}
				}
			})
		})
		n := 0
		try := func(plan ...plannedAction) (calls int) {
			mu.Lock()
			w = newWorld(t, filepath.Join(dir, strconv.Itoa(n)), "some-server@1.sock", open, plan)
			mu.Unlock()
			n++
			removals <- w
			<-removed
			mu.Lock()
			defer mu.Unlock()
			w.check()
			w.end()
			return w.calls
		}
		calls := try()
		for first := range worldActions {
			for at := 1; at <= calls; at++ {
				more := try(plannedAction{at, first})
				if !slices.Contains(earlier, first) {
					continue
				}
				for _, second := range later {
					for then := at + 1; then <= more; then++ {
						try(plannedAction{at, first}, plannedAction{then, second})
					}
				}
			}
		}
		close(removals)
		all.Wait()
		t.Logf("%d removals", n)
	})
}

// plannedAction is one of worldActions, before a call of the removal.
type plannedAction struct {
	at     int
	action string
}

// world is a directory with a dead sock-file that is being removed while others work there.
type world struct {
	t         testing.TB
	dir, path string
	file      *File
	second    *File   // of the same inode, for another remover
	claimed   witness // its inode
	others    []*neighbour
	plan      []plannedAction
	calls     int // of the removal so far
	log       []string
	result    Result
	removed   int // by how many removers
}

// neighbour is what somebody else made: nobody may take its name.
type neighbour struct {
	socket *boundSocket // nil for other files
	pin    int
	lost   bool // by its own people
}

func newWorld(t testing.TB, dir, name string, open func(testing.TB, string) *File, plan []plannedAction) *world {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	w := &world{t: t, dir: dir, path: filepath.Join(dir, name), plan: plan}
	w.file = open(t, w.path)
	w.file.dir.seen.Store(&view{at: time.Now().Add(time.Hour)}) // its calls are not the protocol's
	var err error
	w.second, err = Open(w.path)
	must(t, err)
	w.second.alive.Store(w.file.alive.Load())
	w.claimed.pin = openPath(t, w.path)
	return w
}

func openPath(t interface {
	Helper()
	Errorf(format string, args ...any)
}, path string,
) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Errorf("pin %s: %v", path, err)
	}
	return fd
}

// add notes what is at path as somebody else's.
func (w *world) add(path string, s *boundSocket) {
	w.others = append(w.others, &neighbour{socket: s, pin: openPath(w.t, path)})
}

// disown: who unlinks or replaces a name does it to his own.
func (w *world) disown(path string) {
	for _, o := range w.others {
		if (witness{o.pin}).at(path) {
			o.lost = true
		}
	}
}

func (w *world) unlink() {
	w.disown(w.path)
	_ = os.RemoveAll(w.path)
}

func (w *world) bind(path string) {
	if s, err := tryBind(path, unix.SOCK_STREAM); err == nil {
		w.add(path, s)
	}
}

// worldActions are what others do. None fails when it finds nothing to do it to.
var worldActions = map[string]func(*world){
	"rebind": func(w *world) {
		w.unlink()
		w.bind(w.path)
	},
	"take": func(w *world) { w.bind(w.path) },
	"rename": func(w *world) {
		_ = unix.Renameat2(unix.AT_FDCWD, w.path, unix.AT_FDCWD, w.path+"2", unix.RENAME_NOREPLACE)
	},
	"rename back": func(w *world) {
		_ = unix.Renameat2(unix.AT_FDCWD, w.path+"2", unix.AT_FDCWD, w.path, unix.RENAME_NOREPLACE)
	},
	"link":   func(w *world) { _ = os.Link(w.path, w.path+"3") },
	"unlink": func(w *world) { w.unlink() },
	"file": func(w *world) {
		w.unlink()
		if os.WriteFile(w.path, nil, 0o600) == nil {
			w.add(w.path, nil)
		}
	},
	"directory": func(w *world) {
		w.unlink()
		if os.Mkdir(w.path, 0o700) == nil {
			w.add(w.path, nil)
		}
	},
	"symlink": func(w *world) {
		w.unlink()
		if os.Symlink("elsewhere", w.path) == nil {
			w.add(w.path, nil)
		}
	},
	"another remover": func(w *world) {
		if r := w.second.Remove(RemoveOptions{}); r.Outcome == OutcomeRemoved {
			w.removed++
		}
	},
}

// interfere does what is planned before the next call.
func (w *world) interfere() {
	w.calls++
	for _, p := range w.plan {
		if p.at == w.calls {
			w.log = append(w.log, p.action)
			worldActions[p.action](w)
		}
	}
}

func (w *world) check() {
	fail := func(format string, args ...any) {
		w.t.Helper()
		w.t.Errorf("%v, done %q: %s; %v %q, %v; left %q", w.plan, w.log, fmt.Sprintf(format, args...),
			w.result.Outcome, w.result.Reason, w.result.Err, listDir(w.t, w.dir))
	}
	did := func(actions ...string) bool {
		return slices.ContainsFunc(w.log, func(action string) bool { return slices.Contains(actions, action) })
	}
	entries, err := os.ReadDir(w.dir)
	must(w.t, err)
	_, err = os.Lstat(w.path)
	taken := err == nil
	for _, o := range w.others {
		if o.lost {
			continue
		}
		at := ""
		for _, e := range entries {
			if (witness{o.pin}).at(filepath.Join(w.dir, e.Name())) {
				at = e.Name()
			}
		}
		switch {
		case at == "":
			fail("somebody else's file lost its name")
		case IsPrivate(at) && !taken:
			fail("somebody else's file is left as %s", at)
		}
	}
	for _, e := range entries {
		if IsPrivate(e.Name()) && w.claimed.at(filepath.Join(w.dir, e.Name())) {
			fail("the claimed file is left as %s", e.Name())
		}
	}
	if w.result.Outcome == OutcomeRemoved {
		w.removed++
	}
	if w.removed > 1 && !did("link") {
		fail("%d removers say that they removed it", w.removed)
	}
	links := w.claimed.links()
	switch w.result.Outcome {
	case OutcomeRemoved, OutcomeGone:
		// Who renames or links it behind the removal's back has it stay.
		if links != 0 && !did("rename", "rename back", "link") {
			fail("it has %d links", links)
		}
	case OutcomeReplaced:
		if links != 0 && !did("rename", "rename back", "link") {
			fail("it has %d links", links)
		}
		if !did("rebind", "take", "file", "directory", "symlink") {
			fail("nobody replaced it")
		}
	case OutcomeRefused:
		if w.result.Reason != ReasonHardLinked || !did("link") {
			fail("refused")
		}
	default:
		fail("that cannot be")
	}
	if len(w.plan) == 0 && w.result.Outcome != OutcomeRemoved {
		fail("nobody disturbed it")
	}
}

func (w *world) end() {
	for _, o := range w.others {
		unix.Close(o.pin)
		if o.socket != nil {
			o.socket.die()
		}
	}
	unix.Close(w.claimed.pin)
	w.second.Close()
	w.file.Close()
	must(w.t, os.RemoveAll(w.dir))
}

// TestRemoveModel does things at random to a few names and knows what must be there afterwards.
func TestRemoveModel(t *testing.T) {
	base := testutil.TempDir(t)
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		m := &model{dir: filepath.Join(base, strconv.Itoa(runs)), names: map[string]*object{}}
		if err := os.Mkdir(m.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		defer m.end()
		t.Repeat(map[string]func(*rapid.T){
			"":        m.check,
			"bind":    m.bind,
			"die":     m.die,
			"rename":  m.rename,
			"link":    m.link,
			"unlink":  m.unlink,
			"replace": m.replace,
			"open":    m.open,
			"probe":   m.probe,
			"remove":  m.remove,
			"dry run": m.dryRun,
		})
	})
}

// model is a directory as it should be.
type model struct {
	dir     string
	names   map[string]*object
	objects []*object
	files   []*modelFile
}

// object is an inode.
type object struct {
	pin    witness
	socket *boundSocket // nil for a regular file
	alive  bool
	links  int
}

type modelFile struct {
	file *File
	of   *object
	name string
	seen bool // alive
}

var modelNames = rapid.SampledFrom([]string{"a", "b", "sixteen-bytes-c.", "a-longer-name-than-any-private-one-d.sock"})

func (m *model) path(name string) string { return filepath.Join(m.dir, name) }

func (m *model) add(t *rapid.T, name string, s *boundSocket) {
	o := &object{socket: s, alive: s != nil, links: 1, pin: witness{openPath(t, m.path(name))}}
	m.names[name] = o
	m.objects = append(m.objects, o)
}

func (m *model) bind(t *rapid.T) {
	name := modelNames.Draw(t, "name")
	s, err := tryBind(m.path(name), rapid.SampledFrom([]int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET}).Draw(t, "type"))
	if m.names[name] != nil {
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("bind over %s: %v", name, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.add(t, name, s)
}

func (m *model) die(t *rapid.T) {
	for _, o := range m.objects {
		if o.alive && rapid.Bool().Draw(t, "this one") {
			o.socket.die()
			o.alive = false
			return
		}
	}
}

func (m *model) forget(name string) {
	if o := m.names[name]; o != nil {
		o.links--
		delete(m.names, name)
	}
}

func (m *model) rename(t *rapid.T) {
	from, to := modelNames.Draw(t, "from"), modelNames.Draw(t, "to")
	o := m.names[from]
	if o == nil || o == m.names[to] { // of one inode with itself rename(2) does nothing
		return
	}
	if err := os.Rename(m.path(from), m.path(to)); err != nil {
		t.Fatal(err)
	}
	m.forget(to)
	delete(m.names, from)
	m.names[to] = o
}

func (m *model) link(t *rapid.T) {
	from, to := modelNames.Draw(t, "from"), modelNames.Draw(t, "to")
	if m.names[from] == nil || m.names[to] != nil {
		return
	}
	if err := os.Link(m.path(from), m.path(to)); err != nil {
		t.Fatal(err)
	}
	m.names[to] = m.names[from]
	m.names[to].links++
}

func (m *model) unlink(t *rapid.T) {
	name := modelNames.Draw(t, "name")
	if m.names[name] == nil {
		return
	}
	if err := os.Remove(m.path(name)); err != nil {
		t.Fatal(err)
	}
	m.forget(name)
}

func (m *model) replace(t *rapid.T) {
	m.unlink(t)
	name := modelNames.Draw(t, "name")
	if m.names[name] != nil {
		return
	}
	if err := os.WriteFile(m.path(name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.add(t, name, nil)
}

func (m *model) open(t *rapid.T) {
	name := modelNames.Draw(t, "name")
	f, err := Open(m.path(name))
	switch o := m.names[name]; {
	case o == nil:
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("open %s: %v", name, err)
		}
	case o.socket == nil:
		if !errors.Is(err, ErrNotSocket) {
			t.Fatalf("open %s: %v", name, err)
		}
	case err != nil:
		t.Fatal(err)
	default:
		m.files = append(m.files, &modelFile{file: f, of: o, name: name})
	}
}

func (m *model) anyFile(t *rapid.T) *modelFile {
	if len(m.files) == 0 {
		t.Skip("no File is open")
	}
	return rapid.SampledFrom(m.files).Draw(t, "file")
}

func (m *model) probe(t *rapid.T) {
	f := m.anyFile(t)
	want, reason := StateDead, ReasonNone
	switch {
	case m.names[f.name] != f.of:
		want = StateUnknown
	case f.of.alive:
		want, f.seen = StateAlive, true
	case f.of.links > 1 && !f.seen:
		want, reason = StateUnknown, ReasonHardLinked
	}
	if s, r := f.file.Probe(); s != want || r != reason {
		t.Fatalf("%s is %v %q, want %v %q", f.name, s, r, want, reason)
	}
}

// foresee tells what a removal must give, and which names it must take.
func (m *model) foresee(f *modelFile) (o Outcome, r Reason, names []string) {
	for name, of := range m.names {
		if of == f.of {
			names = append(names, name)
		}
	}
	switch {
	case len(names) == 0 && m.names[f.name] == nil:
		return OutcomeGone, ReasonNone, nil
	case len(names) == 0 && m.names[f.name].socket == nil:
		return OutcomeReplaced, ReasonNotSocket, nil
	case len(names) == 0:
		return OutcomeReplaced, ReasonNone, nil
	case f.of.alive:
		f.seen = true
		return OutcomeAlive, ReasonNone, nil
	case f.of.links > 1 && !f.seen:
		return OutcomeRefused, ReasonHardLinked, nil
	default:
		return OutcomeRemoved, ReasonNone, names
	}
}

func (m *model) remove(t *rapid.T) {
	f := m.anyFile(t)
	outcome, reason, names := m.foresee(f)
	if r := f.file.Remove(RemoveOptions{}); r.Outcome != outcome || r.Reason != reason {
		t.Fatalf("%s: %v %q, %v; want %v %q", f.name, r.Outcome, r.Reason, r.Err, outcome, reason)
	}
	for _, name := range names {
		m.forget(name)
	}
}

func (m *model) dryRun(t *rapid.T) {
	f := m.anyFile(t)
	outcome, reason, _ := m.foresee(f)
	if r := f.file.Remove(RemoveOptions{DryRun: true}); r.Outcome != outcome || r.Reason != reason {
		t.Fatalf("%s: %v %q, %v; want %v %q", f.name, r.Outcome, r.Reason, r.Err, outcome, reason)
	}
}

// check compares the directory with the model, inode by inode.
func (m *model) check(t *rapid.T) {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(m.names) {
		t.Fatalf("%d entries, want %d: %v", len(entries), len(m.names), entries)
	}
	for name, o := range m.names {
		if !o.pin.at(m.path(name)) {
			t.Fatalf("%s is not what it was", name)
		}
	}
	for _, o := range m.objects {
		if o.pin.links() != o.links {
			t.Fatalf("%d links, want %d", o.pin.links(), o.links)
		}
	}
}

func (m *model) end() {
	for _, o := range m.objects {
		if o.socket != nil {
			o.socket.die()
		}
		unix.Close(o.pin.pin)
	}
	for _, f := range m.files {
		f.file.Close()
	}
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(testutil.TempDir(b), "s")
	bindSocket(b, path, unix.SOCK_STREAM)
	b.Run("first in its directory", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f, err := Open(path)
			if err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
	b.Run("directory open", func(b *testing.B) {
		openFile(b, path)
		b.ReportAllocs()
		for b.Loop() {
			f, err := Open(path)
			if err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
}

// BenchmarkRemove makes a dead file for every removal, outside of the time that counts.
func BenchmarkRemove(b *testing.B) {
	for _, feature := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		for _, seen := range []bool{true, false} {
			b.Run(fmt.Sprintf("%v/seen=%v", feature, seen), func(b *testing.B) {
				path := filepath.Join(testutil.Dir(b, feature), "some-server@1.sock")
				keep, err := openDir(filepath.Dir(path))
				if err != nil {
					b.Fatal(err)
				}
				defer keep.release()
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					s, err := tryBind(path, unix.SOCK_STREAM)
					if err != nil {
						b.Fatal(err)
					}
					s.die()
					f, err := Open(path)
					if err != nil {
						b.Fatal(err)
					}
					f.alive.Store(seen)
					b.StartTimer()
					r := f.Remove(RemoveOptions{})
					b.StopTimer()
					if r.Outcome != OutcomeRemoved {
						b.Fatal(r)
					}
					f.Close()
					b.StartTimer()
				}
			})
		}
	}
	b.Run("alive", func(b *testing.B) {
		path := filepath.Join(testutil.TempDir(b), "s")
		bindSocket(b, path, unix.SOCK_STREAM)
		f := openFile(b, path)
		b.ReportAllocs()
		for b.Loop() {
			f.Remove(RemoveOptions{})
		}
	})
	for _, others := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("gone/others=%d", others), func(b *testing.B) {
			dir := testutil.TempDir(b)
			path := filepath.Join(dir, "s")
			leaveDead(b, path)
			f := openFile(b, path)
			must(b, os.Remove(path))
			for i := range others {
				must(b, unix.Mknod(filepath.Join(dir, strconv.Itoa(i)), unix.S_IFSOCK|0o600, 0))
			}
			b.ReportAllocs()
			for b.Loop() {
				f.Remove(RemoveOptions{})
			}
		})
	}
}
