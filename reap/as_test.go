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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// asUser gives an As for a user without privileges, with these groups beside its own.
func asUser(t testing.TB, groups ...uint32) func(f func()) error {
	t.Helper()
	testutil.Require(t, testutil.Root)
	return func(f func()) error { return asuser.Do(asuser.User{UID: nobody, GID: nobody, Groups: groups}, f) }
}

// asThread gives an As that has one other thread of the same user do it.
func asThread(t testing.TB) func(f func()) error {
	t.Helper()
	jobs, done := make(chan func()), make(chan struct{})
	t.Cleanup(func() { close(jobs) })
	go func() {
		runtime.LockOSThread()
		for f := range jobs {
			f()
			done <- struct{}{}
		}
	}()
	var turn sync.Mutex
	return func(f func()) error {
		turn.Lock()
		defer turn.Unlock()
		jobs <- f
		<-done
		return nil
	}
}

// asNever denies everything, as a user that cannot be become.
func asNever(err error) func(f func()) error { return func(func()) error { return err } }

// checkRemovalAs is checkRemoval by another user, and wants a directory that is untouched where the file is not removed.
func checkRemovalAs(t testing.TB, f *File, as func(f func()) error, w want) {
	t.Helper()
	before := listing(t, f)
	for _, dry := range []bool{true, false} {
		r := f.Remove(RemoveOptions{As: as, DryRun: dry})
		checkResult(t, r, w)
		if after := listing(t, f); (dry || w.outcome != OutcomeRemoved) && !slices.Equal(before, after) {
			t.Errorf("dry %v: %q became %q", dry, before, after)
		}
	}
}

// TestRemoveAs: root removes for a user what that user may remove.
func TestRemoveAs(t *testing.T) {
	testutil.Require(t, testutil.Root)
	var (
		removed = want{outcome: OutcomeRemoved}
		access  = want{OutcomeRefused, ReasonPermission, unix.EACCES}
		perm    = want{OutcomeRefused, ReasonPermission, unix.EPERM}
	)
	for _, tt := range []struct {
		what   string
		mode   fs.FileMode
		dir    int // owner and group of the directory
		file   int // owner of the file
		groups []uint32
		want   want
	}{
		{what: "its own", mode: 0o755, dir: nobody, file: nobody, want: removed},
		{what: "root's", mode: 0o755, dir: 0, file: 0, want: access},
		{what: "its own in root's directory", mode: 0o755, dir: 0, file: nobody, want: access},
		{what: "its own in a closed directory", mode: 0o700, dir: 0, file: nobody, want: access},
		{what: "its own, sticky", mode: 0o777 | os.ModeSticky, dir: 0, file: nobody, want: removed},
		{what: "another's, sticky", mode: 0o777 | os.ModeSticky, dir: 0, file: somebody, want: perm},
		{what: "root's, sticky", mode: 0o777 | os.ModeSticky, dir: 0, file: 0, want: perm},
		{what: "root's in its own directory", mode: 0o755, dir: nobody, file: 0, want: removed}, // the directory decides
		{what: "root's in its own sticky directory", mode: 0o755 | os.ModeSticky, dir: nobody, file: 0, want: removed},
		{what: "another group's", mode: 0o775, dir: somebody, file: somebody, want: access},
		{what: "its group's", mode: 0o775, dir: somebody, file: somebody, groups: []uint32{7, somebody}, want: removed},
		{what: "its group's, sticky", mode: 0o775 | os.ModeSticky, dir: somebody, file: somebody, groups: []uint32{somebody}, want: perm},
		{what: "root's group's", mode: 0o775, dir: 0, file: 0, want: access}, // root's own groups are not kept
		{what: "its group's, closed to the group", mode: 0o705, dir: somebody, file: nobody, groups: []uint32{somebody}, want: access},
	} {
		t.Run(tt.what, func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
				dir := testutil.TempDir(t)
				path := filepath.Join(dir, "some-server@1.sock")
				f := open(t, path)
				must(t, os.Lchown(path, tt.file, tt.file))
				must(t, os.Chmod(path, 0))
				must(t, os.Chown(dir, tt.dir, tt.dir))
				must(t, os.Chmod(dir, tt.mode))
				checkRemovalAs(t, f, asUser(t, tt.groups...), tt.want)
				if tt.want.outcome == OutcomeRemoved {
					wantNames(t, dir)
					return
				}
				wantNames(t, dir, "some-server@1.sock")
				checkRemoval(t, f, removed) // root may
			})
		})
	}
}

// TestRemoveAsProbesAsTheProcess: connect(2) needs write permission on the file, which its own user may not have.
func TestRemoveAsProbesAsTheProcess(t *testing.T) {
	as := asUser(t)
	dir := testutil.TempDir(t)
	must(t, os.Chown(dir, nobody, nobody))
	path := filepath.Join(dir, "s")
	for name, kind := range socketKinds {
		t.Run(name, func(t *testing.T) {
			s := bindSocket(t, path, kind)
			must(t, os.Lchown(path, nobody, nobody))
			must(t, os.Chmod(path, 0))
			f := openFile(t, path)
			checkRemovalAs(t, f, as, want{outcome: OutcomeAlive})

			// The last probe, under the private name, too.
			s.die()
			checkRemovalAs(t, f, as, want{outcome: OutcomeRemoved})
		})
	}
}

// TestProbeAsUser: who may write to the file is told what root is told, through /proc of a process that is not dumpable any more.
func TestProbeAsUser(t *testing.T) {
	as := asUser(t)
	dir := testutil.TempDir(t)
	must(t, os.Chmod(dir, 0o755))
	path := filepath.Join(dir, "s")
	s := bindSocket(t, path, unix.SOCK_STREAM)
	f := openFile(t, path)
	probe := func(mode fs.FileMode, state State, reason Reason) {
		t.Helper()
		must(t, os.Chmod(path, mode))
		must(t, as(func() { wantState(t, f, state, reason) }))
	}
	probe(0o666, StateAlive, ReasonNone)
	probe(0o644, StateUnknown, ReasonPermission)
	s.die()
	probe(0o666, StateDead, ReasonNone)
	probe(0o644, StateUnknown, ReasonPermission)
}

// TestRemoveAsImmutable: neither user may.
func TestRemoveAsImmutable(t *testing.T) {
	testutil.Require(t, testutil.Root, testutil.Program("chattr"))
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		dir := testutil.Dir(t, testutil.Ext4)
		path := filepath.Join(dir, "s")
		f := open(t, path)
		must(t, os.Lchown(path, nobody, nobody))
		must(t, os.Chown(dir, nobody, nobody))
		run(t, "chattr", "+i", dir)
		defer run(t, "chattr", "-i", dir)
		checkRemovalAs(t, f, asUser(t), want{OutcomeRefused, ReasonPermission, unix.EPERM})
		wantNames(t, dir, "s")
	})
}

// TestRemoveAsReplaced: what got the name at the last moment gets it back by that user's rights.
func TestRemoveAsReplaced(t *testing.T) {
	as := asUser(t)
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		dir := testutil.TempDir(t)
		path := filepath.Join(dir, "s")
		f := open(t, path)
		must(t, os.Chown(dir, nobody, nobody))
		var kept witness
		r := f.Remove(RemoveOptions{As: as, Commit: func() bool {
			must(t, os.Remove(path))
			bindSocket(t, path, unix.SOCK_STREAM) // root's
			kept = pinInode(t, path)
			return true
		}})
		checkResult(t, r, want{outcome: OutcomeReplaced})
		if !kept.at(path) {
			t.Error("it lost its name")
		}
		wantNames(t, dir, "s")
	})
}

// TestRemoveAsDenied: an As that runs nothing has nothing changed, whatever its error and whenever it is called.
func TestRemoveAsDenied(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		for _, cause := range []error{nil, unix.ENOENT, unix.EMFILE, errors.New("no such user")} {
			dir := testutil.TempDir(t)
			f := open(t, filepath.Join(dir, "s"))
			denied := want{OutcomeRefused, ReasonPermission, unix.EPERM}
			if errors.Is(cause, unix.EMFILE) { // says nothing of the user's rights: it may go well another time
				denied = want{outcome: OutcomeFailed, err: unix.EMFILE}
			}
			checkRemovalAs(t, f, asNever(cause), denied)

			// The first call may be the barrier's, the second one is the removal's.
			calls := 0
			checkRemovalAs(t, f, func(f func()) error {
				if calls++; calls%2 == 1 && !openedAlive(t) {
					f()
					return nil
				}
				return cause
			}, denied)
			wantNames(t, dir, "s")

			// What was run is true, whatever As says then.
			r := f.Remove(RemoveOptions{As: func(f func()) error { f(); return cause }})
			checkResult(t, r, want{outcome: OutcomeRemoved})
			wantNames(t, dir)
		}
	})
}

// openedAlive tells which of the two ways of bothWays this is.
func openedAlive(t testing.TB) bool { return filepath.Base(t.Name()) == "seen_alive" }

// TestRemoveAsCalls are few: one for the barrier, one for all that changes anything.
func TestRemoveAsCalls(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		f := open(t, filepath.Join(testutil.TempDir(t), "s"))
		calls, most := 0, 2
		if openedAlive(t) {
			most = 1
		}
		r := f.Remove(RemoveOptions{As: func(f func()) error { calls++; f(); return nil }})
		checkResult(t, r, want{outcome: OutcomeRemoved})
		if calls != most {
			t.Errorf("%d calls, want %d", calls, most)
		}
	})
}

// TestRemoveAsNoReplaceMissing is TestNoReplaceMissing by another thread.
func TestRemoveAsNoReplaceMissing(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		for _, replaced := range []bool{false, true} {
			dir := testutil.TempDir(t)
			path := filepath.Join(dir, "s")
			f := open(t, path)
			var kept witness
			w := want{outcome: OutcomeRemoved}
			o := RemoveOptions{}
			if replaced {
				w.outcome = OutcomeReplaced
				o.Commit = func() bool {
					must(t, os.Remove(path))
					bindSocket(t, path, unix.SOCK_STREAM)
					kept = pinInode(t, path)
					return true
				}
			}
			asIntercepted(t, func(c call) unix.Errno {
				if c.nr == unix.SYS_RENAMEAT2 && c.args[4] != 0 {
					return unix.EINVAL
				}
				return 0
			}, func(as func(f func()) error) {
				o.As = as
				checkResult(t, f.Remove(o), w)
			})
			if replaced {
				if !kept.at(path) || kept.links() != 1 {
					t.Error("it lost its name")
				}
				wantNames(t, dir, "s")
			} else {
				wantNames(t, dir)
			}
		}
	})
}

// asIntercepted calls f with an As whose thread is under intercept with the calls of a removal.
func asIntercepted(t *testing.T, before func(call) unix.Errno, f func(as func(f func()) error)) {
	t.Helper()
	jobs, done := make(chan func()), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		intercepted(t, before, func() {
			for f := range jobs {
				f()
				done <- struct{}{}
			}
		})
	})
	f(func(f func()) error {
		jobs <- f
		<-done
		return nil
	})
	close(jobs)
	all.Wait()
}

// TestRemoveAsEveryCallFails is TestEveryCallFails for the calls that the other thread makes.
func TestRemoveAsEveryCallFails(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.EACCES, unix.EPERM, unix.EROFS, unix.EBUSY, unix.ENOSPC} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
				for fail := 1; ; fail++ {
					dir := testutil.TempDir(t)
					path := filepath.Join(dir, "s")
					f := open(t, path)
					w := pinInode(t, path)
					var n atomic.Int64
					var probing atomic.Bool
					var r Result
					asIntercepted(t, func(c call) unix.Errno {
						if n.Add(1) == int64(fail) {
							probing.Store(c.nr == unix.SYS_CONNECT)
							return errno
						}
						return 0
					}, func(as func(f func()) error) { r = f.Remove(RemoveOptions{As: as}) })
					if n.Load() < int64(fail) {
						checkResult(t, r, want{outcome: OutcomeRemoved})
						break
					}
					if probing.Load() && errno != unix.EPERM { // which says that it is alive
						checkResult(t, r, want{outcome: OutcomeRemoved}) // for the process got an answer
						continue
					}
					if r.Outcome == OutcomeRemoved || r.Outcome == OutcomeGone || !w.at(path) || w.links() != 1 {
						t.Errorf("call %d: %v %q, %v; %d links", fail, r.Outcome, r.Reason, r.Err, w.links())
					}
					if left := privateNames(t, dir); left != nil {
						t.Errorf("call %d: left %q", fail, left)
					}
				}
			})
		})
	}
}

// TestRemoveAsInterleaved is TestInterleaved, with others at work before each call of the other thread.
func TestRemoveAsInterleaved(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		dir := testutil.Dir(t, testutil.Tmpfs)
		var (
			mu sync.Mutex // only the kernel knows that the two never work at once
			w  *world
		)
		asIntercepted(t, func(call) unix.Errno {
			mu.Lock()
			defer mu.Unlock()
			w.interfere()
			return 0
		}, func(as func(f func()) error) {
			n := 0
			try := func(plan ...plannedAction) (calls int) {
				mu.Lock()
				w = newWorld(t, filepath.Join(dir, strconv.Itoa(n)), "some-server@1.sock", open, plan)
				mu.Unlock()
				n++
				result := w.file.Remove(RemoveOptions{As: as})
				mu.Lock()
				defer mu.Unlock()
				w.result = result
				w.check()
				w.end()
				return w.calls
			}
			calls := try()
			for first := range worldActions {
				for at := 1; at <= calls; at++ {
					more := try(plannedAction{at, first})
					for _, second := range []string{"rebind", "take", "rename back", "link", "unlink", "another remover"} {
						for then := at + 1; then <= more; then++ {
							try(plannedAction{at, first}, plannedAction{then, second})
						}
					}
				}
			}
			t.Logf("%d removals", n)
		})
	})
}

// TestRemoveAsManyRemovers is TestManyRemovers with some of them on other threads.
func TestRemoveAsManyRemovers(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		path := filepath.Join(testutil.TempDir(t), "some-server@1.sock")
		ways := []func(f func()) error{asThread(t), asThread(t), nil, nil}
		for range 50 {
			f := open(t, path)
			var removed atomic.Int64
			var all sync.WaitGroup
			for _, as := range ways {
				all.Go(func() {
					if r := f.Remove(RemoveOptions{As: as}); r.Outcome == OutcomeRemoved {
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
		}
	})
}

// TestRemoveAsWhileServersRebind is TestRemoveWhileServersRebind by another user.
func TestRemoveAsWhileServersRebind(t *testing.T) {
	for _, feature := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		t.Run(feature.String(), func(t *testing.T) {
			as := asUser(t)
			dir := testutil.Dir(t, feature)
			must(t, os.Chown(dir, nobody, nobody))
			path := filepath.Join(dir, "rebound@1.sock")
			var stop atomic.Bool
			var removers sync.WaitGroup
			for range 2 {
				removers.Go(func() {
					for !stop.Load() {
						f, err := Open(path)
						if err != nil {
							continue
						}
						if r := f.Remove(RemoveOptions{As: as}); !r.Outcome.OK() {
							t.Errorf("%v %q, %v", r.Outcome, r.Reason, r.Err)
						}
						f.Close()
					}
				})
			}
			lost := 0
			const lives = 3_000
			for i := range lives {
				s, err := tryBind(path, unix.SOCK_STREAM)
				if err != nil {
					_ = os.Remove(path) // the predecessor's, still there
					continue
				}
				if !leadsTo(s) {
					lost++
				}
				s.die()
				if i%2 == 0 {
					_ = os.Remove(path)
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

// TestRemoveAsDirectoryChanges: the directory is closed to the user between the rename and the unlink. Nothing is left in silence.
func TestRemoveAsDirectoryChanges(t *testing.T) {
	dir := testutil.TempDir(t)
	path := filepath.Join(dir, "s")
	f := openSeenAlive(t, path)
	renames := 0
	var r Result
	asIntercepted(t, func(c call) unix.Errno {
		if c.nr == unix.SYS_RENAMEAT2 {
			if renames++; renames > 1 {
				return unix.EACCES
			}
		}
		if c.nr == unix.SYS_UNLINKAT {
			return unix.EACCES
		}
		return 0
	}, func(as func(f func()) error) { r = f.Remove(RemoveOptions{As: as}) })
	checkResult(t, r, want{OutcomeRefused, ReasonPermission, unix.EACCES})
	left := privateNames(t, dir)
	if len(left) != 1 || r.Err == nil {
		t.Fatalf("left %q, %v", left, r.Err)
	}
	// It is found there the next time.
	checkResult(t, f.Remove(RemoveOptions{}), want{outcome: OutcomeRemoved})
	wantNames(t, dir)
}

// BenchmarkRemoveAs is BenchmarkRemove with another user's rights.
func BenchmarkRemoveAs(b *testing.B) {
	as := asUser(b)
	// Of mode 0 it is the process that probes last.
	for _, mode := range []fs.FileMode{0o666, 0} {
		b.Run(fmt.Sprintf("mode=%o", mode), func(b *testing.B) {
			dir := testutil.Dir(b, testutil.Tmpfs)
			must(b, os.Chown(dir, nobody, nobody))
			path := filepath.Join(dir, "some-server@1.sock")
			var took time.Duration
			for b.Loop() {
				leaveDead(b, path)
				f := openFile(b, path)
				f.alive.Store(true)
				must(b, os.Chmod(path, mode))
				r := f.Remove(RemoveOptions{As: as})
				if r.Outcome != OutcomeRemoved {
					b.Fatal(r)
				}
				took += r.Took
				f.Close()
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/removal")
		})
	}
}
