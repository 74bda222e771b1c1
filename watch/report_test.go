package watch

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/notify"
	"github.com/sockwatch/sockwatch/reap"
)

// logbook keeps the refusals that are logged, for a test that waits for them.
type logbook struct {
	strict
	refusals chan string
}

func newLogbook(t testing.TB) *logbook { return &logbook{strict{t}, make(chan string, 1<<15)} }

func (l *logbook) WriteLevel(level zerolog.Level, b []byte) (int, error) {
	if strings.Contains(string(b), "a report is refused") || strings.Contains(string(b), "what was reported is gone") {
		l.refusals <- string(b)
	}
	return l.strict.WriteLevel(level, b)
}

// refused waits for the next refusal, which must say this.
func (l *logbook) refused(what string) {
	l.t.Helper()
	select {
	case line := <-l.refusals:
		if !strings.Contains(line, what) {
			l.t.Errorf("logged: %s, want %q", line, what)
		}
	case <-time.After(patience):
		l.t.Errorf("no refusal is logged, want %q", what)
	}
}

// abuser is a process below a watched one that reports what it should not.
type abuser struct {
	*descendant
	dir     string
	address string
}

func (a *abuser) says(message string) { a.do("report", message) }

// TestAbuse has a process report what is refused. It is logged, nothing is removed, and the next honest report counts.
func TestAbuse(t *testing.T) {
	parent, theirs := startPuppet(t), startPuppet(t)
	// As root the abuser is another user's process, so that there is something that it must not touch.
	var other []string
	if os.Geteuid() == 0 {
		other = []string{"user"}
	}
	self := strconv.Itoa(os.Getpid())
	for name, abuse := range map[string]struct {
		send    func(a *abuser)
		refused string
		same    bool // the abuser is of our own user
		needs   []testutil.Feature
	}{
		"garbage":           {send: func(a *abuser) { a.says("\xff\x00\x80garbage\x01") }, refused: "is not KEY=value"},
		"empty":             {send: func(a *abuser) { a.says("") }, refused: "nothing is reported"},
		"newlines":          {send: func(a *abuser) { a.says("\n\n\n") }, refused: "nothing is reported"},
		"no key":            {send: func(a *abuser) { a.says("=/a") }, refused: "is not KEY=value"},
		"no path":           {send: func(a *abuser) { a.says("BIND=") }, refused: "not absolute"},
		"relative":          {send: func(a *abuser) { a.says("BIND=live") }, refused: "not absolute"},
		"relative upwards":  {send: func(a *abuser) { a.says("BIND=../live") }, refused: "not absolute"},
		"NUL":               {send: func(a *abuser) { a.says("BIND=" + a.dir + "/live\x00x") }, refused: "NUL"},
		"abstract":          {send: func(a *abuser) { a.says("BIND=\x00name") }, refused: "not absolute"},
		"4096 bytes":        {send: func(a *abuser) { a.says("BIND=/" + strings.Repeat("a", 4095)) }, refused: "too long"},
		"4095 bytes":        {send: func(a *abuser) { a.says("BIND=/" + strings.Repeat("a", 4094)) }, refused: "name too long"},
		"many slashes":      {send: func(a *abuser) { a.says("BIND=" + strings.Repeat("/", 4095)) }, refused: ""},
		"more than 32 KiB":  {send: func(a *abuser) { a.do("report", "BIND=/a\n", "4097") }, refused: "longer than"},
		"64 KiB":            {send: func(a *abuser) { a.do("report", "BIND=/a\n", "8192") }, refused: "longer than"},
		"the longest":       {send: func(a *abuser) { a.do("reportmost") }, refused: "longer than"},
		"unknown keys":      {send: func(a *abuser) { sayOften(a, 100, "K=\n", "10000") }, refused: "nothing is reported"},
		"many paths":        {send: func(a *abuser) { a.do("report", "BIND=/a\n", "4096") }, refused: "no such file"},
		"bad name":          {send: func(a *abuser) { a.says("NAME=../../x") }, refused: "a name has"},
		"absent":            {send: func(a *abuser) { a.says("BIND=" + a.dir + "/absent") }, refused: "no such file"},
		"null":              {send: func(a *abuser) { a.says("BIND=/dev/null") }, refused: "not a sock-file"},
		"log":               {send: func(a *abuser) { a.says("BIND=/dev/log") }, refused: ""},
		"proc":              {send: func(a *abuser) { a.says("BIND=/proc/self/fd/0") }, refused: ""},
		"directory":         {send: func(a *abuser) { a.says("BIND=" + a.dir) }, refused: "not a sock-file"},
		"root directory":    {send: func(a *abuser) { a.says("BIND=/") }, refused: ""},
		"upwards":           {send: func(a *abuser) { a.says("BIND=" + a.dir + "/..") }, refused: ""},
		"file":              {send: func(a *abuser) { a.says("BIND=" + a.dir + "/file") }, refused: "not a sock-file"},
		"below a file":      {send: func(a *abuser) { a.says("BIND=" + a.dir + "/file/x") }, refused: "not a directory"},
		"fifo":              {send: func(a *abuser) { a.says("BIND=" + a.dir + "/fifo") }, refused: "not a sock-file"},
		"symlink":           {send: func(a *abuser) { a.says("BIND=" + a.dir + "/symlink") }, refused: "not a sock-file"},
		"PID 0":             {send: func(a *abuser) { a.says("PID=0\nBIND=" + a.dir + "/live") }, refused: "not a process id"},
		"PID -1":            {send: func(a *abuser) { a.says("PID=-1\nBIND=" + a.dir + "/live") }, refused: "not a process id"},
		"PID huge":          {send: func(a *abuser) { a.says("PID=99999999999999999999\nBIND=" + a.dir + "/live") }, refused: "not a process id"},
		"PID of init":       {send: func(a *abuser) { a.says("PID=1\nBIND=" + a.dir + "/live") }, refused: errOtherUser.Error()},
		"PID of us":         {send: func(a *abuser) { a.says("PID=" + self + "\nBIND=" + a.dir + "/live") }, refused: errOurselves.Error(), same: true},
		"partly good":       {send: func(a *abuser) { a.says("BIND=" + a.dir + "/live\nBIND=bad") }, refused: "not absolute"},
		"PID of us, other":  {needs: rootOnly, send: func(a *abuser) { a.says("PID=" + self + "\nBIND=" + a.dir + "/live") }, refused: errOtherUser.Error()},
		"other's live":      {needs: rootOnly, send: func(a *abuser) { a.says("BIND=" + a.dir + "/live") }, refused: errNotOwn.Error()},
		"other's dead":      {needs: rootOnly, send: func(a *abuser) { a.says("BIND=" + a.dir + "/dead") }, refused: errNotOwn.Error()},
		"other's, by ..":    {needs: rootOnly, send: func(a *abuser) { a.says("BIND=/proc/../" + a.dir + "/dead") }, refused: errNotOwn.Error()},
		"the notify socket": {needs: rootOnly, send: func(a *abuser) { a.says("BIND=" + a.address) }, refused: errNotOwn.Error()},
		"other's process": {needs: rootOnly, send: func(a *abuser) {
			a.says("PID=" + strconv.Itoa(parent.pid()) + "\nBIND=" + a.dir + "/live")
		}, refused: errOtherUser.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			testutil.Require(t, abuse.needs...)
			log := newLogbook(t)
			w, dir := newLogging(t, Options{Log: zerolog.New(log)}), testutil.TempDir(t)
			if err := errors.Join(
				os.Chmod(dir, 0o777), os.WriteFile(dir+"/file", nil, 0o666), unix.Mkfifo(dir+"/fifo", 0o666), os.Symlink("live", dir+"/symlink"),
			); err != nil {
				t.Fatal(err)
			}
			theirs.do("bind", dir+"/live")
			leaveDead(t, dir+"/dead")
			address := w.notifyAddress()
			root := w.add(parent.pid(), OwnerOptions{})
			how := other
			if abuse.same {
				how = nil
			}
			a := &abuser{descendant: parent.spawn(how...), dir: dir, address: address}
			a.do("notify", address)
			abuse.send(a)
			log.refused(abuse.refused)
			a.do("bind", dir+"/honest")
			a.says("BIND=" + dir + "/honest")
			w.claimed(dir + "/honest")
			kill(t, a.process)
			w.wantOutcome(dir+"/honest", reap.OutcomeRemoved, "")
			a.reap(parent)
			w.settleLoop()
			for _, e := range w.drain() {
				if e.Kind != KindExited && e.Result.Path != dir+"/honest" {
					t.Errorf("events: %s", describe(w.seen))
				}
			}
			wantKept(t, dir+"/live", dir+"/dead", dir+"/file", dir+"/fifo", dir+"/symlink", address, "/dev/null")
			wantGone(t, dir+"/honest")
			if err := root.Release(); err != nil {
				t.Error(err)
			}
			w.settleLoop()
			w.empty()
		})
	}
}

var rootOnly = []testutil.Feature{testutil.Root}

func sayOften(a *abuser, times int, message, repeated string) {
	for range times {
		a.do("report", message, repeated)
	}
}

// TestReportByStranger has a process of another user report that does not descend from the watcher.
func TestReportByStranger(t *testing.T) {
	testutil.Require(t, testutil.Root)
	log := newLogbook(t)
	w, dir := newLogging(t, Options{Log: zerolog.New(log)}), testutil.TempDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	p := startPuppet(t)
	parent := p.spawn()
	stranger := parent.spawn("user")
	stranger.do("notify", w.notifyAddress())
	kill(t, parent.process)
	parent.reap(p)
	stranger.do("bind", dir+"/a")
	stranger.do("report", "BIND="+dir+"/a")
	log.refused(errStranger.Error())
	kill(t, stranger.process)
	w.settleLoop()
	wantKept(t, dir+"/a")
	w.empty()
}

// TestReportByStrangerOfOurUser has an orphan of our own user report: it counts, and is below nobody.
func TestReportByStrangerOfOurUser(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	root := w.add(p.pid(), OwnerOptions{})
	parent := p.spawn()
	stranger := parent.spawn()
	stranger.do("notify", w.notifyAddress())
	kill(t, parent.process)
	parent.reap(p)
	stranger.do("bind", dir+"/a")
	stranger.do("report", "BIND="+dir+"/a")
	w.claimed(dir + "/a")
	for _, o := range w.Owners() {
		if o != root && (o.Root() != nil || o.Identity().PID != stranger.pid()) {
			t.Errorf("owner %s has the root %v", o.Identity(), o.Root())
		}
	}
	kill(t, stranger.process)
	w.wantOutcome(dir+"/a", reap.OutcomeRemoved, "")
}

// TestReportWithDescriptors attaches descriptors to reports. None stays open.
func TestReportWithDescriptors(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	p.do("notify", w.notifyAddress())
	o := w.add(p.pid(), OwnerOptions{})
	p.do("bind", dir+"/a")
	p.do("report", "BIND="+dir+"/a")
	w.claimed(dir + "/a")
	w.settleLoop() // who has reported is open until its report is done with
	before := descriptors(t)
	const most = 253 // SCM_MAX_FD of include/net/scm.h
	for _, n := range []int{1, 100, most} {
		for range 20 {
			p.do("reportwith", "BIND="+dir+"/a", strconv.Itoa(n))
		}
	}
	w.settleLoop()
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, and %d before", after, before)
	}
	p.do("bind", dir+"/b")
	p.do("reportwith", "BIND="+dir+"/b", strconv.Itoa(most))
	w.claimed(dir + "/b")
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, dir+"/a", dir+"/b")
}

// TestReportForged has a process claim to be another one. The kernel lets only root do that, who may.
func TestReportForged(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	root := w.add(p.pid(), OwnerOptions{})
	liar, other := p.spawn(), p.spawn()
	liar.do("notify", w.notifyAddress())
	other.do("bind", dir+"/a")
	forge := func(liar *descendant) error {
		_, err := liar.try("reportas", "BIND="+dir+"/a", strconv.Itoa(other.pid()), strconv.Itoa(os.Geteuid()))
		return err
	}
	if os.Geteuid() != 0 {
		if err := forge(liar); err == nil || !strings.Contains(err.Error(), unix.EPERM.Error()) {
			t.Errorf("the kernel says %v", err)
		}
		return
	}
	nobody := p.spawn("user")
	nobody.do("notify", w.notifyAddress())
	if err := forge(nobody); err == nil || !strings.Contains(err.Error(), unix.EPERM.Error()) {
		t.Errorf("the kernel says %v", err)
	}
	if err := forge(liar); err != nil {
		t.Fatal(err)
	}
	w.claimed(dir + "/a")
	w.one(dir+"/a", other.pid(), SourceNotify)
	kill(t, liar.process)
	w.settleLoop()
	wantKept(t, dir+"/a")
	kill(t, other.process)
	w.wantOutcome(dir+"/a", reap.OutcomeRemoved, "")
	if got := root.Results(); len(got) > 0 {
		t.Errorf("kept: %v", got)
	}
}

// TestReportOfGone has a process report its live socket for one that does not exist. It is kept until its holder is dead.
func TestReportOfGone(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	root := w.add(p.pid(), OwnerOptions{})
	child := p.spawn()
	child.do("notify", w.notifyAddress())
	child.do("bind", dir+"/a")
	child.do("report", "PID=4194304\nBIND="+dir+"/a") // PID_MAX_LIMIT of linux/threads.h: no process has it
	w.wantOutcome(dir+"/a", reap.OutcomeAlive, reap.ReasonHolder)
	wantKept(t, dir+"/a")
	kill(t, child.process)
	w.wantOutcome(dir+"/a", reap.OutcomeRemoved, "")
	child.reap(p)
	p.child.Kill()
	waitSettled(t, root)
	w.settleLoop()
	w.empty()
}

// TestReportUnbind has a process be done with what it reported: that is kept at its end. What it does not own stays claimed.
func TestReportUnbind(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	root := w.add(p.pid(), OwnerOptions{Paths: []string{dir + "/named"}})
	child := p.spawn()
	address := w.notifyAddress()
	p.do("notify", address)
	child.do("notify", address)
	for _, name := range []string{"/named", "/theirs"} {
		p.do("bind", dir+name)
		p.do("report", "BIND="+dir+name)
	}
	w.claimed(dir + "/theirs")
	child.do("report", "UNBIND="+dir+"/named\nUNBIND="+dir+"/theirs\nUNBIND="+dir+"/absent")
	p.do("report", "UNBIND="+dir+"/named")
	for _, name := range []string{"/kept", "/gone"} {
		child.do("bind", dir+name)
		child.do("report", "BIND="+dir+name)
	}
	child.do("report", "UNBIND="+dir+"/kept")
	w.settleLoop()
	kill(t, child.process)
	w.wantOutcome(dir+"/gone", reap.OutcomeRemoved, "")
	child.reap(p)
	p.child.Kill()
	waitSettled(t, root)
	wantGone(t, dir+"/gone", dir+"/named", dir+"/theirs")
	wantKept(t, dir+"/kept")
	w.settleLoop()
	if of := about(w.drain(), KindOutcome, dir+"/kept"); len(of) > 0 {
		t.Errorf("outcomes of what was given up: %s", describe(of))
	}
	w.empty()
}

// TestReportName has a process say by what name the conventions of its tree know it.
func TestReportName(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	child := p.spawn()
	path := dir + "/child@" + strconv.Itoa(child.pid()) + ".sock"
	child.do("bind", path) // before anybody watches the bindspace
	root, err := w.Prepare(OwnerOptions{
		Name: "root", Bindspaces: []string{dir}, Conventions: []reap.Convention{mustParseConvention(t, "{name}@{pid}.sock")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Attach(open(t, p.pid())); err != nil { // unlike Add it does not look at what is there
		t.Fatal(err)
	}
	child.do("notify", w.notifyAddress())
	child.do("report", "NAME=child")
	w.settleLoop()
	kill(t, child.process)
	w.wantOutcome(path, reap.OutcomeRemoved, "")
	w.removedOnce(path, child.pid(), SourceConvention)
	child.reap(p)
	p.child.Kill()
	waitSettled(t, root)
	w.settleLoop()
	w.empty()
}

// TestReportFromOtherRoot has a process with another root directory report a path: it is meant as that process sees it, and what has the
// same path elsewhere is not.
func TestReportFromOtherRoot(t *testing.T) {
	testutil.Require(t, testutil.Root)
	w, dir := newWatched(t), testutil.TempDir(t)
	jail := dir + "/jail"
	if err := os.MkdirAll(jail+dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := startPuppet(t)
	root := w.add(p.pid(), OwnerOptions{})
	for _, name := range []string{"/a", "/b"} {
		leaveDead(t, dir+name)
	}
	child := p.spawn()
	child.do("notify", w.notifyAddress())
	child.do("chroot", jail)
	for _, name := range []string{"/a", "/b"} {
		child.do("bind", dir+name)
		child.do("report", "BIND="+dir+name)
	}
	child.do("report", "UNBIND="+dir+"/b")
	child.do("report", "BIND="+dir+"/../../../.."+jail+dir+"/a") // leads out of nothing
	w.settleLoop()
	kill(t, child.process)
	w.next(func(e Event) bool { return e.Kind == KindOutcome && e.Result.Outcome == reap.OutcomeRemoved })
	wantGone(t, jail+dir+"/a")
	wantKept(t, dir+"/a", dir+"/b", jail+dir+"/b")
	child.reap(p)
	p.child.Kill()
	waitSettled(t, root)
	wantKept(t, dir+"/a", dir+"/b", jail+dir+"/b")
	w.settleLoop()
	w.empty()
}

// TestReportFromOtherMounts has a process report a path in a filesystem that is mounted for it alone, in place of a directory of ours.
func TestReportFromOtherMounts(t *testing.T) {
	testutil.Require(t, testutil.UserNS)
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	root := w.add(p.pid(), OwnerOptions{})
	leaveDead(t, dir+"/a")
	child := p.spawn("namespaces")
	child.do("notify", w.notifyAddress())
	child.do("tmpfs", dir)
	child.do("bind", dir+"/a")
	child.do("report", "BIND="+dir+"/a")
	w.next(func(e Event) bool { return e.Kind == KindClaimed })
	kill(t, child.process)
	w.next(func(e Event) bool { return e.Kind == KindOutcome })
	wantKept(t, dir+"/a") // which nobody has reported
	child.reap(p)
	p.child.Kill()
	waitSettled(t, root)
	wantKept(t, dir+"/a")
	w.settleLoop()
	w.empty()
}

// stall has nothing taken of what is reported until it is released, and nothing more read from the socket: what is sent then is read when
// its sender may be gone. path is a sock-file of the puppet.
func (w *watched) stall(p *puppetProcess, path string) (release func()) {
	w.t.Helper()
	w.mu.Lock()
	release = sync.OnceFunc(w.mu.Unlock)
	w.t.Cleanup(release)
	p.do("report", "BIND="+path) // to take it needs the lock
	conn, err := net.Dial("unixgram", w.reporter.receiver.Path())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	for range 256 + 1 { // what notifyd queues for one user, and what it has in hand
		if _, err := conn.Write([]byte("NAME=filler")); err != nil {
			w.t.Fatal(err)
		}
	}
	return release
}

// TestReportOfDead has a report read when its sender is dead and reaped. What it has bound is removed, and what was made under that path
// since then is not.
func TestReportOfDead(t *testing.T) {
	for _, younger := range []bool{false, true} {
		t.Run("younger "+strconv.FormatBool(younger), func(t *testing.T) {
			log := newLogbook(t)
			w, dir := newLogging(t, Options{Log: zerolog.New(log)}), testutil.TempDir(t)
			p := startPuppet(t)
			address := w.notifyAddress()
			p.do("notify", address)
			p.do("bind", dir+"/p")
			root := w.add(p.pid(), OwnerOptions{})
			child := p.spawn()
			child.do("notify", address)
			release := w.stall(p, dir+"/p")
			child.do("bind", dir+"/a")
			child.do("report", "BIND="+dir+"/a")
			kill(t, child.process)
			child.reap(p)
			if younger {
				for sent := time.Now(); !sys.FileTime().After(sent); { // the clock of files is coarse
				}
				if err := os.Remove(dir + "/a"); err != nil {
					t.Fatal(err)
				}
				leaveDead(t, dir+"/a")
			}
			release()
			w.settleLoop()
			if younger {
				for range refusalsMost { // the fillers, which come from ourselves, and the sampled log may be full of them
					select {
					case line := <-log.refusals:
						if !strings.Contains(line, errOurselves.Error()) && !strings.Contains(line, errTooYoung.Error()) {
							t.Errorf("logged: %s", line)
						}
					default:
					}
				}
				wantKept(t, dir+"/a")
				if claims := about(w.drain(), KindClaimed, dir+"/a"); len(claims) > 0 {
					t.Errorf("claims: %s", describe(claims))
				}
			} else {
				w.wantOutcome(dir+"/a", reap.OutcomeRemoved, "")
				w.removedOnce(dir+"/a", child.pid(), SourceNotify)
			}
			p.child.Kill()
			waitSettled(t, root)
			w.settleLoop()
			w.empty()
		})
	}
}

// TestReportFlood has two processes report as fast as they can, one what is refused and one what counts. The end of another owner is
// answered all the same, memory stays bounded, and Close does not wait for an end.
func TestReportFlood(t *testing.T) {
	const many = 30_000
	log := newLogbook(t)
	w, dir := newLogging(t, Options{Log: zerolog.New(log)}), testutil.TempDir(t)
	p, other := startPuppet(t), startPuppet(t)
	address := w.notifyAddress()
	w.add(p.pid(), OwnerOptions{})
	o := w.add(other.pid(), OwnerOptions{Paths: []string{dir + "/other"}})
	other.do("bind", dir+"/other")
	w.mustIdentify(o.Claims()[0])
	before := heapNow()
	var flooders []*descendant
	for _, message := range []string{"BIND=" + dir + "/none", "BIND=" + dir + "/mine\nUNBIND=/none\nNAME="} {
		f := p.spawn()
		f.do("notify", address)
		if len(flooders) == 1 {
			f.do("bind", dir+"/mine")
		}
		f.do("flood", message, "1000", strconv.Itoa(many))
		flooders = append(flooders, f)
	}
	other.child.Kill()
	w.wantOutcome(dir+"/other", reap.OutcomeRemoved, "")
	waitSettled(t, o)
	for _, f := range flooders {
		f.do("flooded")
	}
	w.settleLoop()
	if grown := heapNow() - before; grown > 8<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	w.Close()
	for _, f := range flooders {
		if _, err := f.try("flooded"); err == nil {
			t.Error("it still floods")
		}
	}
	wantKept(t, dir+"/mine")
	wantGone(t, address)
}

// heapNow is what the test's process holds, without what is garbage.
func heapNow() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestReportPassedOn has a watcher that is watched itself tell the outer one what its processes report.
func TestReportPassedOn(t *testing.T) {
	outer, dir := newWatched(t), testutil.TempDir(t)
	t.Setenv(notify.Variable, outer.notifyAddress())
	inner := newWatched(t)
	p := startPuppet(t)
	p.do("notify", inner.notifyAddress())
	p.do("bind", dir+"/a")
	p.do("report", "BIND="+dir+"/a\nNAME=n")
	inner.claimed(dir + "/a")
	outer.claimed(dir + "/a")
	outer.one(dir+"/a", p.pid(), SourceNotify)
	inner.Close() // the outer one is all that is left
	p.child.Kill()
	outer.wantOutcome(dir+"/a", reap.OutcomeRemoved, "")
}
