package reap

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// wantHolders wants exactly these holders of the file at path, and Holds to agree.
func wantHolders(t testing.TB, path string, want ...int) {
	t.Helper()
	f := openFile(t, path)
	holders, err := f.Holders(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, h := range holders {
		got = append(got, h.PID)
		if h.Comm == "" || h.UID != uint32(os.Geteuid()) {
			t.Errorf("%+v", h)
		}
		if ok, err := Holds(openProcess(t, h.PID), f); err != nil || !ok {
			t.Errorf("Holds(%d) is %v, %v", h.PID, ok, err)
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q is held by %v, want %v", path, got, want)
	}
}

func wantNotHeld(t testing.TB, p *puppetProcess, path string) {
	t.Helper()
	if ok, err := Holds(p.open(), openFile(t, path)); err != nil || ok {
		t.Errorf("Holds is %v, %v", ok, err)
	}
}

func TestHoldersTypes(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		p, other := startPuppet(t), startPuppet(t)
		other.do("other")
		for kind := range socketTypes {
			p.do("bind", kind, dir+"/"+kind)
			wantHolders(t, dir+"/"+kind, p.pid())
			wantNotHeld(t, other, dir+"/"+kind)
			if kind != "dgram" {
				p.do("listen")
				wantHolders(t, dir+"/"+kind, p.pid())
			}
			p.do("close")
			wantHolders(t, dir+"/"+kind)
			wantNotHeld(t, p, dir+"/"+kind)
		}
	})
}

func TestHoldersForked(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		p := startPuppet(t)
		p.do("bind", "stream", dir+"/s")
		p.do("listen")
		child, err := strconv.Atoi(p.do("fork"))
		if err != nil {
			t.Fatal(err)
		}
		wantHolders(t, dir+"/s", p.pid(), child)
		p.do("close")
		wantHolders(t, dir+"/s", child)
		wantNotHeld(t, p, dir+"/s")
		f := openFile(t, dir+"/s")
		wantState(t, f, StateAlive, ReasonNone)
		p.do("killchild")
		wantHolders(t, dir+"/s")
		wantState(t, f, StateDead, ReasonNone)
	})
}

// TestHoldersAccepted: the accepted end of a connection does not keep the file alive, and its holder is none.
func TestHoldersAccepted(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		server, worker, client := startPuppet(t), startPuppet(t), startPuppet(t)
		server.do("bind", "stream", dir+"/s")
		server.do("listen")
		for range 3 {
			client.do("connect", dir+"/s")
		}
		server.do("accept")
		worker.do("bind", "dgram", dir+"/worker")
		server.do("sendaccepted", dir+"/worker")
		worker.do("receive")
		wantHolders(t, dir+"/s", server.pid())
		wantNotHeld(t, worker, dir+"/s")
		wantPaths(t, worker.held(), dir+"/worker")
	})
}

func TestHoldersBoundClient(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		server, client := startPuppet(t), startPuppet(t)
		server.do("bind", "stream", dir+"/s")
		server.do("listen")
		client.do("bind", "stream", dir+"/c")
		client.do("reconnect", dir+"/s")
		wantHolders(t, dir+"/c", client.pid())
		wantNotHeld(t, server, dir+"/c")
	})
}

func TestHoldersPassed(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		from, to := startPuppet(t), startPuppet(t)
		to.do("bind", "dgram", dir+"/mail")
		from.do("bind", "stream", dir+"/s")
		from.do("send", dir+"/mail")
		wantHolders(t, dir+"/s", from.pid())
		from.child.Kill()
		// It is on its way now: alive, and nobody has it.
		wantHolders(t, dir+"/s")
		wantState(t, openFile(t, dir+"/s"), StateAlive, ReasonNone)
		to.do("receive")
		wantHolders(t, dir+"/s", to.pid())
		wantPaths(t, to.held(), dir+"/mail", dir+"/s")
	})
}

func TestHoldersRenamedAndLinked(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		p := startPuppet(t)
		p.do("bind", "stream", dir+"/a")
		p.do("rename", dir+"/a", dir+"/b")
		if err := os.Link(dir+"/b", dir+"/c"); err != nil {
			t.Fatal(err)
		}
		wantHolders(t, dir+"/b", p.pid())
		wantHolders(t, dir+"/c", p.pid())
		all, err := HoldersOf(t.Context(), []*File{openFile(t, dir+"/b"), openFile(t, dir+"/c")})
		if err != nil || len(all) != 2 || len(all[0]) != 1 || len(all[1]) != 1 {
			t.Errorf("%v, %v", all, err)
		}
	})
}

func TestHoldersOf(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		a, b := startPuppet(t), startPuppet(t)
		var files []*File
		for i, p := range []*puppetProcess{a, b, a} {
			path := dir + "/" + strconv.Itoa(i)
			p.do("bind", "stream", path)
			files = append(files, openFile(t, path))
		}
		leaveDead(t, dir+"/dead")
		files = append(files, openFile(t, dir+"/dead"))
		all, err := HoldersOf(t.Context(), files)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []int{a.pid(), b.pid(), a.pid(), 0} {
			if got := all[i]; (want == 0) != (len(got) == 0) || want != 0 && (len(got) != 1 || got[0].PID != want) {
				t.Errorf("file %d: %v, want %d", i, got, want)
			}
		}
		if all, err := HoldersOf(t.Context(), nil); err != nil || len(all) != 0 {
			t.Errorf("of no files: %v, %v", all, err)
		}
	})
}

func TestHoldersNamespaces(t *testing.T) {
	testutil.Require(t, testutil.UserNS)
	dir := testutil.TempDir(t)
	p, client := startPuppet(t, namespaces(unix.CLONE_NEWNET|unix.CLONE_NEWNS)), startPuppet(t)
	p.do("bind", "stream", dir+"/ours")
	p.do("listen")
	wantHolders(t, dir+"/ours", p.pid())
	// The accepted end is in the network namespace of the client, which is ours.
	client.do("connect", dir+"/ours")
	p.do("accept")
	wantHolders(t, dir+"/ours", p.pid())
	p.do("mkdir", dir+"/private")
	p.do("tmpfs", dir+"/private")
	p.do("bind", "dgram", dir+"/private/theirs")
	wantHolders(t, "/proc/"+strconv.Itoa(p.pid())+"/root"+dir+"/private/theirs", p.pid())
}

// TestHeldOnOverlay: the socket table and stat(2) need not have the same device for one file.
func TestHeldOnOverlay(t *testing.T) {
	onThread(t, "", func(t *testing.T, dir string) {
		unshareMounts(t)
		// On a tmpfs, because an overlay cannot have another overlay as upper. Its lower layer is of another
		// filesystem, so that the overlay has devices of its own for its files.
		mount(t, "tmpfs", dir, "tmpfs", 0, "")
		for _, name := range []string{"lower", "upper", "work", "merged"} {
			if err := os.Mkdir(dir+"/"+name, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		mount(t, "tmpfs", dir+"/lower", "tmpfs", 0, "")
		mount(t, "overlay", dir+"/merged", "overlay", 0, "lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work")
		p := startPuppet(t)
		path := dir + "/merged/s"
		p.do("bind", "stream", path)
		p.do("bind", "stream", path+".old")
		p.do("rename", path+".old", path+".new")
		wantPaths(t, p.held(), path, path+".new")
		wantHolders(t, path, p.pid())
		keepCapabilities(t, unix.CAP_SYS_PTRACE, unix.CAP_DAC_OVERRIDE)
		wantPaths(t, p.held(), path, path+".new")
		wantHolders(t, path, p.pid())
	})
}

// TestHoldersHidden: a process whose descriptors may not be read is passed over.
func TestHoldersHidden(t *testing.T) {
	unprivileged(t, "", func(t *testing.T) {
		dir := testutil.TempDir(t)
		p := startPuppet(t)
		p.do("bind", "stream", dir+"/s")
		p.do("nondumpable")
		wantHolders(t, dir+"/s")
	})
}

func TestHoldersContext(t *testing.T) {
	f := openSeenAlive(t, testutil.TempDir(t)+"/s")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if holders, err := f.Holders(ctx); holders != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", holders, err)
	}
}

func BenchmarkHolders(b *testing.B) {
	dir := testutil.TempDir(b)
	var files []*File
	for i := range 200 {
		path := dir + "/" + strconv.Itoa(i)
		bindSocket(b, path, unix.SOCK_STREAM)
		files = append(files, openFile(b, path))
	}
	for _, processes := range []int{0, 100} {
		others := testutil.TempDir(b)
		for i := range processes {
			startPuppet(b).do("many", "10", others+"/"+strconv.Itoa(i)+"-")
		}
		for _, n := range []int{1, 200} {
			b.Run("files="+strconv.Itoa(n)+"/others="+strconv.Itoa(processes), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					all, err := HoldersOf(context.Background(), files[:n])
					if err != nil || len(all[n-1]) != 1 {
						b.Fatal(all, err)
					}
				}
			})
		}
	}
}
