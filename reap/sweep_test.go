package reap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func init() {
	helpers["sweep few descriptors"] = sweepFewDescriptors
}

// say puts a Result in words: outcome and reason.
func say(r Result) string { return strings.TrimSpace(r.Outcome.String() + " " + string(r.Reason)) }

// sweepAll gives the Results by path, in words.
func sweepAll(t testing.TB, o SweepOptions, dirs ...string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for r := range Sweep(t.Context(), o, dirs...) {
		if _, ok := got[r.Path]; ok {
			t.Errorf("%q is told of twice", r.Path)
		}
		got[r.Path] = say(r)
		if r.DryRun != o.DryRun || r.Took < 0 || (r.Err == nil && !r.Outcome.OK()) {
			t.Errorf("%+v", r)
		}
	}
	return got
}

func wantSweep(t testing.TB, o SweepOptions, dirs []string, want map[string]string) {
	t.Helper()
	if got := sweepAll(t, o, dirs...); !maps.Equal(got, want) {
		t.Errorf("sweep %+v of %q:\n got %q\nwant %q", o, dirs, got, want)
	}
}

// onFilesystems runs a test on each of the filesystems that matter most.
func onFilesystems(t *testing.T, f func(t *testing.T, dir string)) {
	t.Helper()
	for _, on := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		t.Run(on.String(), func(t *testing.T) { f(t, testutil.Dir(t, on)) })
	}
}

// must is for what a test prepares.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSweep(t *testing.T) {
	onFilesystems(t, func(t *testing.T, dir string) {
		in := func(name string) string { return filepath.Join(dir, name) }
		want := map[string]string{}
		for name, kind := range map[string]int{"stream": unix.SOCK_STREAM, "dgram": unix.SOCK_DGRAM, "seqpacket": unix.SOCK_SEQPACKET} {
			bindSocket(t, in("live-"+name), kind)
			bindSocket(t, in("dead-"+name), kind).die()
			want[in("live-"+name)] = "alive"
			want[in("dead-"+name)] = "removed"
		}
		for _, name := range []string{"dead space\n\xff", strings.Repeat("l", 255), ".hidden"} {
			leaveDead(t, in(name))
			want[in(name)] = "removed"
		}
		leaveDead(t, in("before"))
		must(t, os.Rename(in("before"), in("after")))
		want[in("after")] = "removed"

		bindSocket(t, in("live-link"), unix.SOCK_STREAM)
		must(t, os.Link(in("live-link"), in("live-link2")))
		want[in("live-link")], want[in("live-link2")] = "alive", "alive"
		leaveDead(t, in("dead-link"))
		must(t, os.Link(in("dead-link"), in("dead-link2")))
		want[in("dead-link")], want[in("dead-link2")] = "refused hard-linked", "refused hard-linked"

		must(t, os.WriteFile(in("regular"), nil, 0o600))
		must(t, unix.Mkfifo(in("fifo"), 0o600))
		must(t, os.Symlink("dead-stream", in("symlink")))
		must(t, os.Mkdir(in("below"), 0o700))
		leaveDead(t, in("below/dead"))

		before := listDir(t, dir)
		wantSweep(t, SweepOptions{DryRun: true}, []string{dir}, want)
		if after := listDir(t, dir); fmt.Sprint(before) != fmt.Sprint(after) {
			t.Errorf("a dry run changed %q to %q", before, after)
		}
		wantSweep(t, SweepOptions{}, []string{dir}, want)
		kept := map[string]string{}
		var names []string
		for path, outcome := range want {
			if outcome != "removed" {
				kept[path] = outcome
				names = append(names, filepath.Base(path))
			}
		}
		wantNames(t, dir, append(names, "regular", "fifo", "symlink", "below")...)
		wantSweep(t, SweepOptions{}, []string{dir}, kept)
	})
}

func TestSweepRecursive(t *testing.T) {
	dir, elsewhere := testutil.TempDir(t), testutil.TempDir(t)
	layout(t, dir, "a/b/c", "d", "e")
	for _, name := range []string{"0", "a/1", "a/b/2", "a/b/c/3", "d/4"} {
		leaveDead(t, filepath.Join(dir, name))
	}
	bindSocket(t, dir+"/a/b/live", unix.SOCK_STREAM)
	leaveDead(t, elsewhere+"/dead")
	must(t, os.Symlink(elsewhere, dir+"/d/link"))
	must(t, os.Symlink("..", dir+"/a/up"))
	must(t, os.Symlink("/proc", dir+"/e/proc"))

	// Paths are told as the directory was given.
	wantSweep(t, SweepOptions{DryRun: true}, []string{dir + "/", dir + "/d/link"}, map[string]string{
		dir + "/0": "removed", dir + "/d/link/dead": "removed",
	})
	wantSweep(t, SweepOptions{Recursive: true, Match: "a/**/[12]", DryRun: true}, []string{dir}, map[string]string{
		dir + "/a/1": "removed", dir + "/a/b/2": "removed",
	})
	wantSweep(t, SweepOptions{Recursive: true}, []string{dir}, map[string]string{
		dir + "/0": "removed", dir + "/a/1": "removed", dir + "/a/b/2": "removed", dir + "/a/b/c/3": "removed", dir + "/d/4": "removed",
		dir + "/a/b/live": "alive",
	})
	wantNames(t, elsewhere, "dead")
}

func TestSweepRelative(t *testing.T) {
	dir := testutil.TempDir(t)
	t.Chdir(dir)
	leaveDead(t, dir+"/dead")
	for _, given := range []string{".", "./"} {
		wantSweep(t, SweepOptions{DryRun: true}, []string{given}, map[string]string{"./dead": "removed"})
	}
}

// TestSweepCrossesMounts: other filesystems are entered, procfs and sysfs are not.
func TestSweepCrossesMounts(t *testing.T) {
	onThread(t, "mounts", func(t *testing.T, dir string) {
		unshareMounts(t)
		layout(t, dir, "tmp", "proc", "sys")
		mount(t, "tmpfs", dir+"/tmp", "tmpfs", 0, "")
		mount(t, "proc", dir+"/proc", "proc", 0, "")
		mount(t, "sysfs", dir+"/sys", "sysfs", 0, "")
		leaveDead(t, dir+"/tmp/dead")
		must(t, os.Symlink("x", dir+"/tmp/x"))
		wantSweep(t, SweepOptions{Recursive: true}, []string{dir, "/proc", "/sys"}, map[string]string{dir + "/tmp/dead": "removed"})
	})
}

func TestSweepMatch(t *testing.T) {
	dir := testutil.TempDir(t)
	for _, name := range []string{"a.sock", "b.sock", "c", "[x]", "é.sock", "\xff.sock"} {
		leaveDead(t, filepath.Join(dir, name))
	}
	for pattern, names := range map[string][]string{
		"":          {"a.sock", "b.sock", "c", "[x]", "é.sock", "\xff.sock"},
		"*.sock":    {"a.sock", "b.sock", "é.sock", "\xff.sock"},
		"**":        {"a.sock", "b.sock", "c", "[x]", "é.sock", "\xff.sock"},
		"{a,c}*":    {"a.sock", "c"},
		"[!a].sock": {"b.sock", "é.sock", "\xff.sock"},
		`\[x]`:      {"[x]"},
		"?":         {"c"},
		"nothing":   {},
	} {
		want := map[string]string{}
		for _, name := range names {
			want[filepath.Join(dir, name)] = "removed"
		}
		wantSweep(t, SweepOptions{Match: pattern, DryRun: true}, []string{dir}, want)
	}
}

func TestSweepOptionsValidate(t *testing.T) {
	dir := testutil.TempDir(t)
	leaveDead(t, dir+"/dead")
	for _, tt := range []struct {
		o    SweepOptions
		want error
		text string
	}{
		{SweepOptions{Match: "[a"}, ErrBadPattern, `match "[a"`},
		{SweepOptions{Match: "{a"}, ErrBadPattern, `match "{a"`},
		{SweepOptions{MinAge: -time.Second}, nil, "-1s"},
	} {
		err := tt.o.Validate()
		if err == nil || !strings.Contains(err.Error(), tt.text) || (tt.want != nil && !errors.Is(err, tt.want)) {
			t.Errorf("%+v: %v", tt.o, err)
		}
		n := 0
		for r := range Sweep(t.Context(), tt.o, dir, dir) {
			if n++; r.Outcome != OutcomeFailed || r.Err == nil || r.Err.Error() != err.Error() {
				t.Errorf("%+v: %+v", tt.o, r)
			}
		}
		if n != 1 {
			t.Errorf("%+v: told %d times", tt.o, n)
		}
	}
	wantNames(t, dir, "dead")
	must(t, SweepOptions{Match: "**/*.sock", MinAge: time.Hour}.Validate())
}

func TestSweepMinAge(t *testing.T) {
	dir := testutil.TempDir(t)
	leaveDead(t, dir+"/dead")
	bindSocket(t, dir+"/live", unix.SOCK_STREAM)
	past := unix.NsecToTimeval(time.Now().Add(-24 * time.Hour).UnixNano())
	must(t, unix.Lutimes(dir+"/dead", []unix.Timeval{past, past})) // proves nothing
	wantSweep(t, SweepOptions{MinAge: time.Hour}, []string{dir}, map[string]string{})
	<-time.After(50 * time.Millisecond) // to be older than something
	wantSweep(t, SweepOptions{MinAge: time.Millisecond}, []string{dir}, map[string]string{dir + "/dead": "removed", dir + "/live": "alive"})
}

func TestSweepOfNoDirectory(t *testing.T) {
	dir := testutil.TempDir(t)
	must(t, os.WriteFile(dir+"/regular", nil, 0o600))
	leaveDead(t, dir+"/dead")
	var last Result
	for path, want := range map[string]error{dir + "/absent": fs.ErrNotExist, dir + "/regular": unix.ENOTDIR, dir + "/dead": unix.ENOTDIR, "": fs.ErrNotExist} {
		n := 0
		for r := range Sweep(t.Context(), SweepOptions{DryRun: true}, path, dir) {
			if n++; n == 1 {
				last = r
			}
		}
		var pathError *fs.PathError
		if n != 2 || last.Outcome != OutcomeFailed || last.Path != path || !last.DryRun || !errors.Is(last.Err, want) ||
			!errors.As(last.Err, &pathError) || pathError.Path != path {
			t.Errorf("%q: %d results, the first %+v", path, n, last)
		}
	}
}

// TestSweepUnreadable: what may not be read is told, and the rest is swept.
func TestSweepUnreadable(t *testing.T) {
	onThread(t, "unreadable", func(t *testing.T, dir string) {
		if os.Geteuid() == 0 {
			must(t, os.Chown(dir, nobody, nobody))
			become(t, nobody)
		}
		layout(t, dir, "a", "secret", "unsearchable/below", "unwritable", "z")
		for _, name := range []string{"a/1", "secret/2", "unsearchable/3", "unwritable/4", "z/5"} {
			leaveDead(t, filepath.Join(dir, name))
		}
		for name, mode := range map[string]os.FileMode{"secret": 0, "unsearchable": 0o600, "unwritable": 0o500} {
			must(t, os.Chmod(filepath.Join(dir, name), mode))
			defer func() { must(t, os.Chmod(filepath.Join(dir, name), 0o700)) }()
		}
		for _, dryRun := range []bool{true, false} {
			wantSweep(t, SweepOptions{Recursive: true, DryRun: dryRun}, []string{dir}, map[string]string{
				dir + "/a/1":          "removed",
				dir + "/secret":       "refused permission",
				dir + "/unsearchable": "refused permission",
				dir + "/unwritable/4": "refused permission",
				dir + "/z/5":          "removed",
			})
		}
		wantSweep(t, SweepOptions{}, []string{dir + "/secret"}, map[string]string{dir + "/secret": "refused permission"})
		for r := range Sweep(t.Context(), SweepOptions{}, dir+"/secret") {
			var pathError *fs.PathError
			if !errors.Is(r.Err, fs.ErrPermission) || !errors.As(r.Err, &pathError) || pathError.Path != dir+"/secret" {
				t.Errorf("%v", r.Err)
			}
		}
	})
}

// leaveManyDead makes n dead sock-files, and gives their names.
func leaveManyDead(t testing.TB, dir string, n int) []string {
	t.Helper()
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("agent@%d.sock", i)
		s, err := tryBind(filepath.Join(dir, names[i]), unix.SOCK_STREAM)
		must(t, err)
		s.die()
	}
	return names
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

// TestSweepMany: neither descriptors nor memory grow with the number of files.
func TestSweepMany(t *testing.T) {
	const files = 20_000
	dir := testutil.Dir(t, testutil.Tmpfs)
	leaveManyDead(t, dir, files)
	fds := openDescriptors(t)
	var before, m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := 0
	for r := range Sweep(t.Context(), SweepOptions{}, dir) {
		if r.Outcome != OutcomeRemoved {
			t.Fatalf("%+v", r)
		}
		if n++; n%(files/10) != 0 {
			continue
		}
		if more := openDescriptors(t) - fds; more > 100 {
			t.Errorf("after %d files: %d descriptors", n, more)
		}
		runtime.GC()
		runtime.ReadMemStats(&m)
		if more := int64(m.HeapAlloc) - int64(before.HeapAlloc); more > 1<<20 {
			t.Errorf("after %d files: %d bytes", n, more)
		}
	}
	if n != files {
		t.Errorf("%d results", n)
	}
	wantNames(t, dir)
}

// TestSweepFewDescriptors: at the limit a sweep makes do with smaller batches.
func TestSweepFewDescriptors(t *testing.T) {
	dir := testutil.TempDir(t)
	leaveManyDead(t, dir, 3*batchSize)
	child := testutil.Start(t, testutil.Command(t, "sweep few descriptors", dir))
	child.Expect(fmt.Sprintf("removed %d", 3*batchSize))
	wantNames(t, dir)
}

func sweepFewDescriptors() {
	// What Go has open for itself is below 20.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 40, Max: 40}); err != nil {
		panic(err)
	}
	count := map[string]int{}
	for r := range Sweep(context.Background(), SweepOptions{}, os.Args[1]) {
		count[say(r)]++
	}
	for what, n := range count {
		fmt.Println(what, n)
	}
}

// TestSweepStops: after a break and after the end of the context nothing is touched, and everything closed.
func TestSweepStops(t *testing.T) {
	dir := testutil.TempDir(t)
	layout(t, dir, "a", "b/c")
	const files = batchSize + 10
	for _, name := range []string{"a", "b", "b/c"} {
		leaveManyDead(t, filepath.Join(dir, name), files)
	}
	fds := openDescriptors(t)
	left := func() int {
		n := 0
		for _, name := range []string{"a", "b", "b/c"} {
			entries, err := os.ReadDir(filepath.Join(dir, name))
			must(t, err)
			for _, e := range entries {
				if e.Type() == fs.ModeSocket {
					n++
				}
			}
		}
		return n
	}
	want := 3 * files
	check := func(how string, removed int) {
		t.Helper()
		want -= removed
		if n := left(); n != want {
			t.Errorf("%s: %d files left, want %d", how, n, want)
		}
		if n := openDescriptors(t); n != fds {
			t.Errorf("%s: %d descriptors, before %d", how, n, fds)
		}
	}
	sweep := func(ctx context.Context, n int, stop func()) int {
		for range Sweep(ctx, SweepOptions{Recursive: true}, dir, dir+"/a") {
			if n--; n == 0 {
				stop()
			}
		}
		return n
	}
	for _, n := range []int{1, 2, 5, files} {
		ctx, cancel := context.WithCancel(t.Context())
		if more := sweep(ctx, n, cancel); more != 0 {
			t.Errorf("%d results after the context ended", -more)
		}
		check(fmt.Sprintf("cancelled after %d", n), n)
		if more := sweep(ctx, n, cancel); more != n {
			t.Errorf("%d results, the context had ended before", n-more)
		}
		check("cancelled before", 0)
	}
	for range Sweep(t.Context(), SweepOptions{Recursive: true}, dir, dir+"/a") {
		break
	}
	check("break", 1)
	func() {
		defer func() { _ = recover() }()
		for range Sweep(t.Context(), SweepOptions{Recursive: true}, dir) {
			panic("in the loop")
		}
	}()
	check("panic", 1)
}

// TestSweepOfVanishing: directories and files go while they are swept.
func TestSweepOfVanishing(t *testing.T) {
	dir := testutil.TempDir(t)
	layout(t, dir, "a", "b", "c/d")
	for _, name := range []string{"a", "b", "c/d"} {
		leaveManyDead(t, filepath.Join(dir, name), 3)
	}
	count := map[string]int{}
	for r := range Sweep(t.Context(), SweepOptions{Recursive: true}, dir) {
		count[say(r)]++
		for _, name := range []string{"a", "b", "c"} {
			must(t, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	// The three of the first directory had been looked at before the first was removed.
	if !maps.Equal(count, map[string]int{"removed": 1, "gone": 2}) {
		t.Errorf("%v", count)
	}
	wantNames(t, dir)
}

// TestSweepOfReplaced: servers come back under the names of files that were found dead.
func TestSweepOfReplaced(t *testing.T) {
	onFilesystems(t, func(t *testing.T, dir string) {
		names := leaveManyDead(t, dir, 20)
		count := map[string]int{}
		live := map[string]string{}
		for r := range Sweep(t.Context(), SweepOptions{}, dir) {
			count[say(r)]++
			if len(live) > 0 {
				continue
			}
			for i, name := range names {
				path := filepath.Join(dir, name)
				if path == r.Path {
					continue
				}
				if i%2 == 0 {
					must(t, os.Remove(path))
					bindSocket(t, path, unix.SOCK_STREAM)
				} else {
					bindSocket(t, path+".new", unix.SOCK_STREAM)
					must(t, os.Rename(path+".new", path))
				}
				live[path] = "alive"
			}
		}
		if !maps.Equal(count, map[string]int{"removed": 1, "replaced": 19}) {
			t.Errorf("%v", count)
		}
		wantSweep(t, SweepOptions{}, []string{dir}, live)
	})
}

// TestSweepBarrier follows the calls of a sweep: all files are probed, then one barrier, and each is probed once more before
// anything becomes of it.
func TestSweepBarrier(t *testing.T) {
	dir := testutil.TempDir(t)
	leaveManyDead(t, dir, 3)
	var calls []string
	removed := 0
	intercepted(t, func(c call) unix.Errno {
		switch c.nr {
		case unix.SYS_CONNECT:
			calls = append(calls, "probe")
		case unix.SYS_RENAMEAT2:
			calls = append(calls, "rename")
		case unix.SYS_UNLINKAT:
			what := "unlink"
			if _, err := os.Lstat(filepath.Join(dir, c.name(1))); errors.Is(err, fs.ErrNotExist) {
				what = "barrier"
			}
			calls = append(calls, what)
		}
		return 0
	}, func() {
		for r := range Sweep(t.Context(), SweepOptions{}, dir) {
			if r.Outcome == OutcomeRemoved {
				removed++
			}
		}
	})
	want := "probe probe probe barrier" + strings.Repeat(" probe rename probe unlink", 3)
	if got := strings.Join(calls, " "); got != want || removed != 3 {
		t.Errorf("%d removed by %s, want %s", removed, got, want)
	}
}

// TestSweepAgainstServers: servers bind, die and are back under the same name as soon as the sweep has cleared it.
func TestSweepAgainstServers(t *testing.T) {
	onFilesystems(t, func(t *testing.T, dir string) {
		const servers, lives = 3, 1_000
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range servers {
			wg.Go(func() {
				path := filepath.Join(dir, fmt.Sprintf("server%d", i))
				for n := 0; n < lives; {
					s, err := tryBind(path, unix.SOCK_STREAM)
					if errors.Is(err, unix.EADDRINUSE) {
						runtime.Gosched()
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					// It may have a private name at this moment, and then it comes back.
					if !reachable(path) {
						t.Errorf("life %d: %s is lost", n, path)
					}
					s.die()
					n++
				}
			})
		}
		go func() {
			wg.Wait()
			stop()
		}()
		count := map[string]int{}
		for ctx.Err() == nil {
			for r := range Sweep(ctx, SweepOptions{}, dir) {
				count[say(r)]++
				if !r.Outcome.OK() {
					t.Errorf("%+v", r)
				}
			}
		}
		t.Logf("%v", count)
	})
}

// reachable tells whether a client finds a server at path. A remover may be stopped for long while it looks at it.
func reachable(path string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); runtime.Gosched() {
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); errors.Is(err, unix.EPROTOTYPE) {
			return true
		}
	}
	return false
}
