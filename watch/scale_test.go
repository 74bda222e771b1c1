package watch

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// TestManyClaims has one owner with 10,000 claims, every other one of a file that is not known before the end.
func TestManyClaims(t *testing.T) {
	const n = 10000
	w, dir := newWatched(t), testutil.TempDir(t)
	before := descriptors(t)
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{})
	for i := range n {
		path := dir + "/" + strconv.Itoa(i)
		fd := listenFD(t, path)
		if i%2 == 0 {
			mustClaim(t, o, path)
		}
		unix.Close(fd)
		if i%2 != 0 {
			mustClaim(t, o, path)
		}
	}
	w.catchUp()
	if more := descriptors(t) - before; more > 10 { // the puppet's, the owner's and the directory's
		t.Errorf("%d descriptors for %d claims", more, n)
	}
	for i := 0; i < n; i += 100 {
		if c := mustClaim(t, o, dir+"/"+strconv.Itoa(i)); !c.Release() {
			t.Fatalf("claim %d was not released", i)
		}
	}
	p.child.Kill()
	waitSettled(t, o)
	if left := count(t, dir); left != n/100 {
		t.Errorf("%d files are left, %d were released", left, n/100)
	}
	if results := o.Results(); len(results) != n-n/100 {
		t.Errorf("%d results", len(results))
	}
	w.settleLoop()
	w.empty()
}

// TestManyInBindspace has one owner bind thousands of sockets that nobody told of.
func TestManyInBindspace(t *testing.T) {
	const n = 5000
	testutil.Require(t, testutil.Descriptors(n+100))
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}})
	p.do("many", strconv.Itoa(n), dir+"/")
	p.child.Kill()
	waitSettled(t, o)
	if left := count(t, dir); left != 0 {
		t.Errorf("%d files of %d are left", left, n)
	}
	w.empty()
}

// TestManyOwnersOfBindspace has hundreds of owners of one bindspace, each of which binds there.
func TestManyOwnersOfBindspace(t *testing.T) {
	const n = 400
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	children := p.hatch(n, dir+"/", "stay")
	var owners []*Owner
	for _, child := range children {
		owners = append(owners, w.addProcess(duplicate(t, child), OwnerOptions{Bindspaces: []string{dir}}))
	}
	goOn(t, children...)
	whose := map[pidfd.Identity]string{}
	for range n {
		e := w.next(func(e Event) bool { return e.Kind == KindClaimed })
		whose[e.Owner] = e.Result.Path
	}
	for i, o := range owners {
		if got, want := whose[o.Identity()], dir+"/"+strconv.Itoa(i); got != want {
			t.Errorf("owner %d is said to have bound %q", i, got)
		}
	}
	for i := range n { // the oldest first, so that the others see it go
		kill(t, children[i])
	}
	for _, o := range owners {
		waitSettled(t, o)
	}
	if left := count(t, dir); left != 0 {
		t.Errorf("%d files of %d are left", left, n)
	}
	p.do("reapall")
	w.settleLoop()
	w.empty()
}

// crowd starts n processes that cost little and do nothing, children of a shell, which is returned: it reaps them when it is told
// "wait". They end with the test.
func crowd(t testing.TB, n int) (shell *testutil.Child, processes []*pidfd.Process) {
	t.Helper()
	r, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// Forked and not executed: as cheap as it gets.
	cmd := exec.Command("/bin/sh", "-c", `
		i=0
		while [ $i -lt $1 ]; do
			read x <&3 &
			echo $!
			i=$((i+1))
		done
		read x
		wait
		echo waited`, "sh", strconv.Itoa(n))
	cmd.ExtraFiles = []*os.File{r}
	shell = testutil.Start(t, cmd)
	t.Cleanup(func() { end.Close() })
	for range n {
		pid, err := strconv.Atoi(shell.Line())
		if err != nil {
			t.Fatal(err)
		}
		processes = append(processes, open(t, pid))
	}
	return shell, processes
}

// TestManyOwners watches 8,000 processes inside 20,000 descriptors, and kills them all.
func TestManyOwners(t *testing.T) {
	const n = 8000
	testutil.Require(t, testutil.Descriptors(n+n/4))
	w, dir := newWatched(t), testutil.TempDir(t)
	shell, processes := crowd(t, n)
	before := descriptors(t) - n
	owners := make([]*Owner, n)
	for i, p := range processes {
		path := dir + "/" + strconv.Itoa(i)
		fd := listenFD(t, path)
		owners[i] = w.addProcess(p, OwnerOptions{Paths: []string{path}})
		unix.Close(fd)
	}
	w.settleLoop() // what is looked at just now has descriptors, too
	if more := descriptors(t) - before; more > n+10 {
		t.Errorf("%d descriptors for %d owners", more, n)
	}
	for _, p := range processes {
		if err := p.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for i, o := range owners {
		waitSettled(t, o)
		wantResults(t, o, map[string]short{strconv.Itoa(i): {reap.OutcomeRemoved, ""}})
	}
	shell.Say("wait")
	shell.Expect("waited")
	w.settleLoop()
	w.empty()
	if left := count(t, dir); left != 0 {
		t.Errorf("%d files of %d are left", left, n)
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// TestHeapPerOwner measures what an owner with one claim takes of the heap: less than 1 KiB.
func TestHeapPerOwner(t *testing.T) {
	const n = 2000
	w, dir := newWatched(t), testutil.TempDir(t)
	_, processes := crowd(t, n)
	pids := make([]int, n)
	for i, p := range processes { // the handles are a part of it
		pids[i] = p.PID()
		p.Close()
	}
	w.sub.Close() // its Events are no part of an owner
	owners := make([]*Owner, n)
	paths := make([]string, n)
	for i := range paths {
		paths[i] = dir + "/" + strconv.Itoa(i)
		leaveAlive(t, paths[i])
	}
	// What the watcher itself takes, once, and for what happens in directories.
	first := w.add(pids[0], OwnerOptions{Paths: []string{dir + "/first"}})
	leaveAlive(t, dir+"/first")
	w.mustIdentify(first.claims[0])
	_ = first.Release()
	w.settleLoop()
	before := heapInUse()
	for i := range owners {
		owners[i] = w.add(pids[i], OwnerOptions{Paths: []string{paths[i]}})
	}
	w.settleLoop()
	each := int(heapInUse()-before) / n
	t.Logf("%d bytes for each of %d owners", each, n)
	if each >= 1<<10 {
		t.Error("that is 1 KiB or more")
	}
	for _, o := range owners {
		if !w.identified(o.claims[0]) {
			t.Fatal("not identified")
		}
		_ = o.Release()
	}
	w.settleLoop()
	w.empty()
	for _, path := range append(paths, dir+"/first") {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// leaveAlive binds a socket until the end of the test.
func leaveAlive(t testing.TB, path string) {
	t.Helper()
	fd := listenFD(t, path)
	t.Cleanup(func() { unix.Close(fd) })
}

// heapInUse is what is in use after everything was collected.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
