package ebpf

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	cilium "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

// patience bounds the wait for an event that does not come.
const patience = 3 * time.Minute

// fexit is the right to have HooksFexit, found out by trying.
var fexit = testutil.Tried("fexit", tryFexit)

var tryFexit = sync.OnceValue(func() error {
	s, err := load(HooksFexit, defaultRingSize)
	if err != nil {
		return err
	}
	return s.close()
})

// everyHooks are all sets.
var everyHooks = []Hooks{HooksFexit, HooksTracepoint, HooksSysExit}

// seen are the tests of what every set of hooks sees. They share one Tracer: attaching takes long where the processor is emulated.
var seen = map[string]func(*testing.T, *events){
	"bind":                   testBind,
	"paths":                  testPaths,
	"chroot":                 testChroot,
	"mount namespace":        testMountNamespace,
	"net and pid namespaces": testNetAndPIDNamespaces,
	"ignored":                testIgnored,
	"types of sockets":       testTypesOfSockets,
	"process is gone":        testGone,
	"io_uring":               testIOUring,
}

func TestSeen(t *testing.T) {
	for _, h := range everyHooks {
		t.Run(h.String(), func(t *testing.T) {
			e := follow(t, h)
			for name, test := range seen {
				t.Run(name, func(t *testing.T) { test(t, &events{t, e.Tracer, e.came}) })
			}
		})
	}
}

// events is what comes from a Tracer that is read all the time.
type events struct {
	t *testing.T
	*Tracer
	came <-chan Event
}

func follow(t *testing.T, h Hooks) *events {
	t.Helper()
	tracer := openHooks(t, h)
	read, came, ended := make(chan Event), make(chan Event), make(chan error, 1)
	go func() {
		defer close(read)
		for {
			event, err := tracer.Read()
			switch {
			case errors.Is(err, ErrDropped):
				continue // others on this machine bind, too
			case err != nil:
				ended <- err
				return
			}
			read <- event
		}
	}()
	// A queue without an end, lest events be lost while a test waits for something else.
	go func() {
		var queue []Event
		for {
			var first Event
			var out chan<- Event
			if len(queue) > 0 {
				first, out = queue[0], came
			}
			select {
			case event, more := <-read:
				if !more {
					return
				}
				queue = append(queue, event)
			case out <- first:
				queue = queue[1:]
			}
		}
	}()
	t.Cleanup(func() {
		if err := tracer.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return &events{t, tracer, came}
}

// openHooks opens with so much room that nothing is lost to what others on this machine bind.
func openHooks(t *testing.T, h Hooks) *Tracer {
	t.Helper()
	return openWith(t, Options{Hooks: h, RingSize: 16 << 20})
}

func openWith(t *testing.T, o Options) *Tracer {
	t.Helper()
	testutil.Require(t, testutil.Root, testutil.BPF)
	if o.Hooks == HooksFexit {
		testutil.Require(t, fexit)
	}
	tracer, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tracer.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return tracer
}

// any waits for the next event of whatever process.
func (e *events) any() Event {
	e.t.Helper()
	select {
	case event := <-e.came:
		return event
	case <-time.After(patience):
		e.t.Fatalf("no event came (lost: %d)", e.Drops())
		return Event{}
	}
}

// next waits for the next event of that process.
func (e *events) next(pid int) Event {
	e.t.Helper()
	for {
		if event := e.any(); event.Owner.PID == pid {
			return event
		}
	}
}

// expect waits for the next event of that process, which must be of that kind and path.
func (e *events) expect(pid int, kind Kind, path string) Event {
	e.t.Helper()
	event := e.next(pid)
	if event.Kind != kind || kind == KindBound && event.Path != path {
		e.t.Fatalf("got %s of %q (%+v), want %s of %q", event.Kind, event.Path, event, kind, path)
	}
	return event
}

// closes tells whether the hooks see the death of sockets.
func (e *events) closes() bool { return e.Hooks() == HooksFexit }

func namespaceOf(t *testing.T, pid int, kind string) uint32 {
	t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		t.Fatal(err)
	}
	return uint32(inodeOf(info))
}

func testBind(t *testing.T, e *events) {
	path := filepath.Join(testutil.TempDir(t), "s")
	p := startBinder(t, 0)
	before := time.Now()
	socket := p.bind(path)
	after := time.Now()
	got := e.next(p.PID())

	process, err := pidfd.Open(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	owner, err := process.Identity()
	if err != nil {
		t.Fatal(err)
	}
	info, err := process.Info()
	if err != nil {
		t.Fatal(err)
	}
	stat, err := procfs.Stat(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	_, ino := p.stat(path)
	want := Event{
		Kind: KindBound, Via: ViaNative, Time: got.Time, Owner: owner, StartTime: stat.StartTime, TID: got.TID,
		NSPID: p.PID(), UID: info.UID, EUID: info.EUID, Comm: info.Comm, CgroupID: got.CgroupID,
		MountNS: namespaceOf(t, p.PID(), "mnt"), PIDNS: namespaceOf(t, p.PID(), "pid"), NetNS: namespaceOf(t, p.PID(), "net"),
		Socket: socket, Dev: got.Dev, Inode: ino, Path: path, FullPath: path, RawPath: path,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", p.PID(), got.TID)); err != nil {
		t.Error(err)
	}
	// The wall clock may be set meanwhile, by little.
	if got.Time.Before(before.Add(-patience)) || got.Time.After(after.Add(patience)) {
		t.Errorf("the bind was at %s, between %s and %s", got.Time, before, after)
	}
	if id, ok := cgroupOf(t, p.PID()); ok && got.CgroupID != id {
		t.Errorf("cgroup %d, want %d", got.CgroupID, id)
	}

	p.do("close", path)
	if e.closes() {
		want := Event{Kind: KindClosed, Owner: owner, StartTime: got.StartTime, Socket: socket, Dev: got.Dev, Inode: ino}
		got := e.next(p.PID())
		want.Time = got.Time
		if got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	}
}

// cgroupOf finds the inode number of the process's directory in cgroup2, where that is mounted at one of the usual places.
func cgroupOf(t *testing.T, pid int) (uint64, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		dir, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			var fs unix.Statfs_t
			if unix.Statfs(mount, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
				continue
			}
			if info, err := os.Stat(mount + dir); err == nil {
				return inodeOf(info), true
			}
		}
	}
	return 0, false
}

func testPaths(t *testing.T, e *events) {
	dir := testutil.TempDir(t)
	for _, name := range []string{"a", "a/b", "real"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	p := startBinder(t, 0)
	p.do("chdir", dir+"/a/b")

	for _, test := range []struct{ raw, path string }{
		{"relative", dir + "/a/b/relative"},
		{"../../up", dir + "/up"},
		{"./../b/../over", dir + "/a/over"},
		{dir + "/link/s", dir + "/real/s"},
		{"../../link/t", dir + "/real/t"},
		{dir + "//a///slashes", dir + "/a/slashes"},
		{"new\nline \xff\x01", dir + "/a/b/new\nline \xff\x01"},
		// Room for 108 bytes and none for a NUL.
		{"./" + strings.Repeat("n", 106), dir + "/a/b/" + strings.Repeat("n", 106)},
	} {
		socket := p.bind(test.raw)
		got := e.expect(p.PID(), KindBound, test.path)
		if got.RawPath != test.raw || got.Socket != socket || got.Truncated || got.Outside || got.FullPath != got.Path {
			t.Errorf("bind of socket %d to %q: %+v", socket, test.raw, got)
		}
	}

	// Deeper than a path can be that is given to bind(2).
	p.do("chdir", dir)
	deep := dir
	for range 60 {
		name := strings.Repeat("d", 60)
		deep += "/" + name
		if err := os.Mkdir(deep, 0o755); err != nil {
			t.Fatal(err)
		}
		p.do("chdir", name)
	}
	p.bind("s")
	if got := e.expect(p.PID(), KindBound, deep+"/s"); got.Truncated {
		t.Errorf("%d bytes of path are said to be truncated", len(got.Path))
	} else if got.FullPath != got.Path {
		t.Errorf("in full it is %q", got.FullPath)
	}
	for range 120 {
		if err := os.Mkdir(deep+"/d", 0o755); err != nil {
			t.Fatal(err)
		}
		deep += "/d"
		p.do("chdir", "d")
	}
	p.bind("s")
	got := e.next(p.PID())
	if !got.Truncated || !strings.HasSuffix(deep+"/s", "/"+got.Path) || got.FullPath != "" {
		t.Errorf("truncated: %t, to %q; in full %q", got.Truncated, got.Path, got.FullPath)
	}
}

func testChroot(t *testing.T, e *events) {
	dir := testutil.TempDir(t)
	if err := os.MkdirAll(dir+"/root/run", 0o755); err != nil {
		t.Fatal(err)
	}
	p := startBinder(t, 0)
	p.do("chdir", dir)
	p.do("chroot", "root")
	p.bind("/run/in")
	if got := e.expect(p.PID(), KindBound, "/run/in"); got.FullPath != dir+"/root/run/in" {
		t.Errorf("in full it is %q", got.FullPath)
	}

	// The working directory is still where it was.
	p.bind("out")
	if got := e.expect(p.PID(), KindBound, strings.TrimPrefix(dir, "/")+"/out"); !got.Outside || got.FullPath != dir+"/out" {
		t.Errorf("not said to be outside of the root: %+v", got)
	}
}

func testMountNamespace(t *testing.T, e *events) {
	dir := testutil.TempDir(t)
	p := startBinder(t, unix.CLONE_NEWNS)
	p.do("tmpfs", dir)
	p.bind(dir + "/s")
	got := e.expect(p.PID(), KindBound, dir+"/s")
	dev, ino := p.stat(dir + "/s")
	if got.Dev != dev || got.Inode != ino {
		t.Errorf("file %d:%d, want %d:%d", got.Dev, got.Inode, dev, ino)
	}
	if got.FullPath != got.Path {
		t.Errorf("in full it is %q", got.FullPath)
	}
	if ns := namespaceOf(t, p.PID(), "mnt"); got.MountNS != ns || ns == namespaceOf(t, os.Getpid(), "mnt") {
		t.Errorf("mount namespace %d, want %d", got.MountNS, ns)
	}
	if _, err := os.Lstat(dir + "/s"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is not hidden: %v", err)
	}
}

func testNetAndPIDNamespaces(t *testing.T, e *events) {
	path := filepath.Join(testutil.TempDir(t), "s")
	p := startBinder(t, unix.CLONE_NEWNET|unix.CLONE_NEWPID)
	p.bind(path)
	got := e.expect(p.PID(), KindBound, path)
	if got.NSPID != 1 {
		t.Errorf("pid %d in its own namespace, want 1", got.NSPID)
	}
	if pid, net := namespaceOf(t, p.PID(), "pid"), namespaceOf(t, p.PID(), "net"); got.PIDNS != pid || got.NetNS != net {
		t.Errorf("pid and network namespace %d and %d, want %d and %d", got.PIDNS, got.NetNS, pid, net)
	}
}

func testIgnored(t *testing.T, e *events) {
	path := filepath.Join(testutil.TempDir(t), "s")
	p := startBinder(t, 0)
	for _, test := range []struct{ name, answer string }{
		{"\x00" + path, ""}, // abstract
		{"", ""},            // autobind
		{path + "/none/s", "ENOENT"},
		{filepath.Dir(path), "EADDRINUSE"},
	} {
		answer := p.do("bind", strconv.Itoa(unix.SOCK_STREAM), test.name)
		if _, err := strconv.Atoi(answer); answer != test.answer && err != nil {
			t.Fatalf("bind to %q: %s, want %q", test.name, answer, test.answer)
		}
		if test.answer == "" {
			p.do("close", test.name)
		}
	}
	listener := p.bind(path)
	e.expect(p.PID(), KindBound, path)
	// The accepted socket, which has the path of its listener, ends before that.
	p.do("connect", path)
	p.do("close", path)
	if e.closes() {
		if got := e.expect(p.PID(), KindClosed, ""); got.Socket != listener {
			t.Errorf("socket %d is closed, want %d", got.Socket, listener)
		}
	}
	p.bind(path + "2")
	e.expect(p.PID(), KindBound, path+"2")
}

func testTypesOfSockets(t *testing.T, e *events) {
	dir := testutil.TempDir(t)
	p := startBinder(t, 0)
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		path := filepath.Join(dir, strconv.Itoa(kind))
		p.do("bind", strconv.Itoa(kind), path)
		e.expect(p.PID(), KindBound, path)
	}
}

func testGone(t *testing.T, e *events) {
	path := filepath.Join(testutil.TempDir(t), "s")
	p := startBinder(t, 0)
	p.bind(path)
	p.end()
	got := e.expect(p.PID(), KindBound, path)
	if process, err := got.Owner.Open(); !errors.Is(err, pidfd.ErrExited) {
		t.Errorf("open process %s: %v, %v", got.Owner, process, err)
	}
}

// flooding is processes that bind n times in all.
type flooding struct {
	children []*testutil.Child
	paths    []string // where each binds
}

func startFlood(t *testing.T, dir string, n int) (f flooding) {
	t.Helper()
	const processes = 4
	for i := range processes {
		path := filepath.Join(dir, strconv.Itoa(i))
		f.children = append(f.children, testutil.Start(t, testutil.Command(t, "flood", path, strconv.Itoa(n/processes))))
		f.paths = append(f.paths, path)
	}
	return f
}

// wait returns when each has its last socket bound, which stays until hangup.
func (f flooding) wait() {
	for _, child := range f.children {
		for child.Line() != "done" {
		}
	}
}

func (f flooding) hangup() {
	for _, child := range f.children {
		child.Hangup()
	}
}

// TestDrops is about a reader that does not read: what has no room is counted, ErrDropped tells so after the rest, and Scan finds what is
// still there. With -short, for emulated processors, there are fewer binds.
func TestDrops(t *testing.T) {
	many := 50_000
	if testing.Short() {
		many = 5000
	}
	for h, binds := range map[Hooks]int{HooksAuto: many, HooksFexit: 5000, HooksTracepoint: 5000, HooksSysExit: 5000} {
		t.Run(h.String(), func(t *testing.T) {
			tracer := openWith(t, Options{Hooks: h, RingSize: 1 << 16})
			dir := testutil.TempDir(t)
			f := startFlood(t, dir, binds)
			f.wait()
			if err := tracer.Detach(); err != nil {
				t.Fatal(err)
			}
			drops := tracer.Drops()
			if drops == 0 {
				t.Errorf("no event of %d was lost", binds)
			}
			tracer.set.collection.Variables["lost"] = new(cilium.Variable) // as where there is no shared memory
			if again := tracer.Drops(); again != drops {
				t.Errorf("%d lost, then %d", drops, again)
			}

			seen, asked, after := 0, 0, 0
			for {
				event, err := tracer.Read()
				if errors.Is(err, io.EOF) {
					break
				}
				switch {
				case errors.Is(err, ErrDropped):
					asked++
				case err != nil:
					t.Fatal(err)
				case asked > 0:
					after++
				}
				if event.Kind == KindBound && filepath.Dir(event.Path) == dir {
					seen++
				}
			}
			if asked != 1 || after != 0 {
				t.Errorf("asked for a scan %d times, with %d events after it", asked, after)
			}
			if seen+int(drops) < binds {
				t.Errorf("%d events and %d lost ones of %d binds", seen, drops, binds)
			}

			sockets := scan(t)
			for _, path := range f.paths {
				if !contains(sockets, path) {
					t.Errorf("%s is bound, and not in the scan", path)
				}
			}
			f.hangup()
		})
	}
}

// TestFlood is about a reader that does: what it is not told of is counted.
func TestFlood(t *testing.T) {
	for _, h := range everyHooks {
		t.Run(h.String(), func(t *testing.T) {
			tracer := openWith(t, Options{Hooks: h})
			const binds = 10_000
			dir := testutil.TempDir(t)
			f := startFlood(t, dir, binds)
			seen := make(chan int)
			go func() {
				n := 0
				for {
					event, err := tracer.Read()
					if err != nil && !errors.Is(err, ErrDropped) {
						if !errors.Is(err, io.EOF) {
							t.Error(err)
						}
						seen <- n
						return
					}
					if event.Kind == KindBound && filepath.Dir(event.Path) == dir {
						n++
					}
				}
			}()
			f.wait()
			f.hangup()
			if err := tracer.Detach(); err != nil {
				t.Fatal(err)
			}
			n, drops := <-seen, tracer.Drops()
			t.Logf("%d events and %d lost ones of %d binds", n, drops, binds)
			if n > binds || n+int(drops) < binds {
				t.Errorf("%d events and %d lost ones of %d binds", n, drops, binds)
			}
		})
	}
}

// TestClose holds the programs and looks whether anything still runs them.
func TestClose(t *testing.T) {
	for _, h := range everyHooks {
		t.Run(h.String(), func(t *testing.T) {
			tracer := openHooks(t, h)
			stats, err := cilium.EnableStats(unix.BPF_STATS_RUN_TIME)
			if err != nil {
				t.Fatal(err)
			}
			defer stats.Close()
			programs := map[string]*cilium.Program{}
			for name, program := range tracer.set.collection.Programs {
				held, err := program.Clone()
				if err != nil {
					t.Fatal(err)
				}
				defer held.Close()
				programs[name] = held
			}
			runs := func() map[string]uint64 {
				n := map[string]uint64{}
				for name, program := range programs {
					stats, err := program.Stats()
					if err != nil {
						t.Fatal(err)
					}
					n[name] = stats.RunCount
				}
				return n
			}

			dir := testutil.TempDir(t)
			p := startBinder(t, 0)
			none := runs()
			p.bind(dir + "/before")
			p.do("close", dir+"/before")
			if maps.Equal(none, runs()) {
				t.Fatal("the programs do not run")
			}
			reading := make(chan error)
			go func() {
				for {
					if _, err := tracer.Read(); err != nil && !errors.Is(err, ErrDropped) {
						reading <- err
						return
					}
				}
			}()
			if err := tracer.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-reading; !errors.Is(err, os.ErrClosed) {
				t.Errorf("Read ended with %v", err)
			}
			// One that was at work on another processor may end after Close.
			for round := 0; ; round++ {
				before := runs()
				p.bind(dir + "/after")
				p.do("close", dir+"/after")
				p.do("unlink", dir+"/after")
				after := runs()
				if maps.Equal(before, after) {
					break
				}
				if round == 100 {
					t.Fatalf("the programs still run: %v, then %v", before, after)
				}
			}
			if err := tracer.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("second Close: %v", err)
			}
			if _, err := tracer.Read(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("Read after Close: %v", err)
			}
		})
	}
}

func TestDetach(t *testing.T) {
	tracer := openHooks(t, HooksTracepoint)
	path := filepath.Join(testutil.TempDir(t), "s")
	p := startBinder(t, 0)
	p.bind(path)
	if err := tracer.Detach(); err != nil {
		t.Fatal(err)
	}
	p.bind(path + "2")
	var paths []string
	for {
		event, err := tracer.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if event.Owner.PID == p.PID() {
			paths = append(paths, event.Path)
		}
	}
	if !slices.Equal(paths, []string{path}) {
		t.Errorf("got %q", paths)
	}
	if _, err := tracer.Read(); !errors.Is(err, io.EOF) {
		t.Errorf("Read after the end: %v", err)
	}
}
