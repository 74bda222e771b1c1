package reap

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

func init() {
	helpers["overlay"] = serveThroughOverlay
}

func TestLayerPaths(t *testing.T) {
	for _, tt := range []struct {
		options string
		want    []string
	}{
		{"rw,lowerdir=/a,upperdir=/b,workdir=/c,uuid=on", []string{"/a", "/b", "/c"}},
		{"rw,lowerdir=/a:/b::/c,workdir=/w/work", []string{"/a", "/b", "/c", "/w/work"}},
		{`ro,lowerdir+=/a:b\054c\134d\040e,lowerdir+=/x,datadir+=/y`, []string{`/a:b,c\d e`, "/a:b,cd e", "/x", "/y"}},
		{`rw,lowerdir=lo\134:w\134\054er\040sp\134\134x:lo2`, []string{`lo\:w\,er sp\\x`, `lo:w,er sp\x`, "lo2"}},
		{`rw,upperdir=/u\134\054p\134\134a\040b`, []string{`/u\,p\\a b`, `/u,p\a b`}},
		{`rw,upperdir=/ends\134`, []string{`/ends\`}},
		{"rw,size=4k,lower=/a,lowerdir", nil},
	} {
		if got := layerPaths(tt.options); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.options, got, tt.want)
		}
	}
}

// blindness is what the view of a directory says, without and with force.
func blindness(t *testing.T, path string) (reason, forced Reason) {
	t.Helper()
	d, err := openDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.release()
	v := d.view()
	return v.blind(false), v.blind(true)
}

func wantBlind(t *testing.T, path string, want Reason) {
	t.Helper()
	forced := want
	if want == ReasonOverlayLayer {
		forced = ReasonNone
	}
	if r, f := blindness(t, path); r != want || f != forced {
		t.Errorf("%s: %q, with force %q; want %q, %q", path, r, f, want, forced)
	}
}

// newLayers forgets what was known of layers: it may have been found by another thread, or a moment ago.
func newLayers() {
	known.Lock()
	defer known.Unlock()
	known.layers = nil
}

// layout makes directories.
func layout(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestViewOfOrdinaryDirectory(t *testing.T) {
	newLayers()
	for _, dir := range []string{testutil.TempDir(t), testutil.Dir(t, testutil.Tmpfs), testutil.Dir(t, testutil.Ext4)} {
		wantBlind(t, dir, ReasonNone)
	}
}

func TestViewOfLayers(t *testing.T) {
	onThread(t, "layers", func(t *testing.T, dir string) {
		unshareMounts(t)
		mount(t, "tmpfs", dir, "tmpfs", 0, "")
		layout(t, dir, `lo:w,er sp\x/in`, "low2", "upper/in/deep", "upper/other", "work", "merged", "elsewhere", "part", "uppermost")
		defer newLayers()
		newLayers()
		for _, name := range []string{`lo:w,er sp\x/in`, "upper/in", "work", "elsewhere"} {
			wantBlind(t, filepath.Join(dir, name), ReasonNone)
		}
		mount(t, "overlay", dir+"/merged", "overlay", 0,
			fmt.Sprintf(`lowerdir=%[1]s/lo\:w\,er sp\\x:%[1]s/low2,upperdir=%[1]s/upper,workdir=%[1]s/work`, dir))
		// A part of the layer, mounted where neither a path nor a directory above tells where it comes from.
		mount(t, dir+"/upper/in", dir+"/part", "", unix.MS_BIND, "")
		// Not the layer's, though it is in it.
		mount(t, "tmpfs", dir+"/upper/other", "tmpfs", 0, "")
		newLayers()
		for _, name := range []string{`lo:w,er sp\x`, `lo:w,er sp\x/in`, "low2", "upper", "upper/in/deep", "work", "work/work", "part", "part/deep"} {
			wantBlind(t, filepath.Join(dir, name), ReasonOverlayLayer)
		}
		for _, name := range []string{"", "merged", "merged/in/deep", "elsewhere", "upper/other", "uppermost"} {
			wantBlind(t, filepath.Join(dir, name), ReasonNone)
		}
	})
	onThread(t, "by relative path", func(t *testing.T, dir string) {
		unshareMounts(t) // and the working directory
		mount(t, "tmpfs", dir, "tmpfs", 0, "")
		layout(t, dir, "lower", "a/upper/in", "a/work", "merged", "else")
		if err := unix.Chdir(dir); err != nil {
			t.Fatal(err)
		}
		mount(t, "overlay", dir+"/merged", "overlay", 0, "lowerdir=lower,upperdir=a/upper,workdir=a/work")
		defer newLayers()
		newLayers()
		wantBlind(t, dir+"/a/upper/in", ReasonOverlayLayer)
		wantBlind(t, dir+"/lower", ReasonOverlayLayer)
		wantBlind(t, dir+"/else", ReasonNone)
		wantBlind(t, dir+"/a", ReasonNone)
	})
	onThread(t, "by the new system calls", func(t *testing.T, dir string) {
		unshareMounts(t)
		mount(t, "tmpfs", dir, "tmpfs", 0, "")
		layout(t, dir, "a:b,c d/in", "low2", "upper", "work", "merged", "else")
		if err := mountByFsconfig(dir); err != nil {
			t.Logf("before Linux 6.5: %v", err)
			return
		}
		defer newLayers()
		newLayers()
		for _, name := range []string{"a:b,c d/in", "low2", "upper", "work"} {
			wantBlind(t, filepath.Join(dir, name), ReasonOverlayLayer)
		}
		wantBlind(t, dir+"/else", ReasonNone)
		wantBlind(t, dir+"/merged", ReasonNone)
	})
}

func mountByFsconfig(dir string) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fd)
	for _, option := range [][2]string{{"lowerdir+", "/a:b,c d"}, {"lowerdir+", "/low2"}, {"upperdir", "/upper"}, {"workdir", "/work"}} {
		if err := unix.FsconfigSetString(fd, option[0], dir+option[1]); err != nil {
			return fmt.Errorf("fsconfig %s: %w", option[0], err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return os.NewSyscallError("fsconfig", err)
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(mnt)
	return os.NewSyscallError("move_mount", unix.MoveMount(mnt, "", unix.AT_FDCWD, dir+"/merged", unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// TestSweepThroughLayer: a socket that is bound through the merged view is alive there, and looks dead in the layer.
func TestSweepThroughLayer(t *testing.T) {
	onThread(t, "own mount namespace", func(t *testing.T, dir string) {
		unshareMounts(t)
		mount(t, "tmpfs", dir, "tmpfs", 0, "")
		layout(t, dir, "lower", "upper", "work", "merged")
		mount(t, "overlay", dir+"/merged", "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir))
		bindSocket(t, dir+"/merged/live", unix.SOCK_STREAM)
		leaveDead(t, dir+"/merged/dead")
		defer newLayers()
		newLayers()

		for _, dryRun := range []bool{true, false} {
			wantSweep(t, SweepOptions{DryRun: dryRun}, []string{dir + "/upper"}, map[string]string{
				dir + "/upper/live": "refused overlay-layer",
				dir + "/upper/dead": "refused overlay-layer",
			})
		}
		checkRemoval(t, openFile(t, dir+"/upper/live"), want{OutcomeRefused, ReasonOverlayLayer, ErrRefused})
		wantNames(t, dir+"/upper", "live", "dead")
		wantSweep(t, SweepOptions{}, []string{dir + "/merged"}, map[string]string{
			dir + "/merged/live": "alive",
			dir + "/merged/dead": "removed",
		})
		leaveDead(t, dir+"/upper/forced")
		wantSweep(t, SweepOptions{Force: true, Match: "forced"}, []string{dir + "/upper"}, map[string]string{
			dir + "/upper/forced": "removed",
		})
		wantNames(t, dir+"/merged", "live")
	})
}

// TestSweepThroughForeignLayer has the overlay in the mount namespace of another process.
func TestSweepThroughForeignLayer(t *testing.T) {
	testutil.Require(t, testutil.Overlay)
	dir := testutil.Dir(t, testutil.Tmpfs)
	layout(t, dir, "lower", "upper", "work", "merged")
	cmd := testutil.Command(t, "overlay", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	child := testutil.Start(t, cmd)
	child.Expect("ready")
	wantNames(t, dir+"/merged")
	defer newLayers()
	newLayers()
	for _, options := range []SweepOptions{{}, {Recursive: true}} {
		wantSweep(t, options, []string{dir + "/upper"}, map[string]string{dir + "/upper/live": "refused overlay-layer"})
	}
	wantBlind(t, dir+"/lower", ReasonOverlayLayer)
	child.Hangup() // it looks through the merged view, too
	child.Expect("alive")
}

// serveThroughOverlay mounts an overlay and binds a socket in it.
func serveThroughOverlay() {
	dir := os.Args[1]
	err := unix.Mount("overlay", dir+"/merged", "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir))
	if err != nil {
		panic(err)
	}
	if _, err := tryBind(dir+"/merged/live", unix.SOCK_STREAM); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
	for r := range Sweep(context.Background(), SweepOptions{}, dir+"/merged") {
		fmt.Println(r.Outcome)
	}
}

// TestLayersWhileProcessesComeAndGo: that a process is a zombie, or gone while its mount table is read, is no cause for doubt.
func TestLayersWhileProcessesComeAndGo(t *testing.T) {
	zombie := testutil.Command(t, "exit")
	must(t, zombie.Start())
	must(t, unix.Waitid(unix.P_PID, zombie.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil))
	if findLayers().doubt != nil {
		t.Error("in doubt beside a zombie")
	}
	onThread(t, "beside a zombie of another user", func(t *testing.T, _ string) {
		become(t, nobody)
		if findLayers().doubt != nil {
			t.Error("in doubt")
		}
	})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.Command("/bin/true").Run()
				}
			}
		})
	}
	for range 50 {
		if findLayers().doubt != nil {
			t.Error("in doubt")
		}
	}
	close(stop)
	wg.Wait()
}

func TestViewOfContainerStorage(t *testing.T) {
	home := testutil.TempDir(t)
	layout(t, home, ".local/share/containers/storage/overlay/x/diff", ".local/share/other", "data/docker/overlay2/x/diff", "else")
	defer newLayers()
	newLayers()
	wantBlind(t, home+"/.local/share/containers/storage/overlay/x/diff", ReasonOverlayLayer) // of any user, by its path
	wantBlind(t, home+"/.local/share/other", ReasonNone)
	wantBlind(t, home+"/data/docker/overlay2/x/diff", ReasonNone)
	wantBlind(t, home+"/else", ReasonNone)

	t.Setenv("XDG_DATA_HOME", home+"/data")
	newLayers()
	wantBlind(t, home+"/data/docker/overlay2/x/diff", ReasonOverlayLayer)
	wantBlind(t, home+"/else", ReasonNone)

	// The way there may go through symlinks.
	if err := os.Symlink(home+"/data", home+"/link"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_DATA_HOME", home+"/link")
	newLayers()
	wantBlind(t, home+"/data/docker", ReasonOverlayLayer)

	// Who may not go up from where he is goes by the path.
	t.Setenv("XDG_DATA_HOME", home+"/data")
	if !findLayers().includePath(home+"/data/docker/overlay2", true) {
		t.Error("not by its path")
	}
}

// TestViewByAttribute: no mount table tells of the overlay, but overlayfs left its mark.
func TestViewByAttribute(t *testing.T) {
	dir := testutil.Dir(t, testutil.Ext4)
	layout(t, dir, "upper/in", "else")
	newLayers()
	wantBlind(t, dir+"/upper/in", ReasonNone)
	if err := unix.Setxattr(dir+"/upper", "user.overlay.impure", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	for i := range 100 { // a list that is longer than a first guess
		if err := unix.Setxattr(dir+"/upper", fmt.Sprintf("user.%03d%s", i, strings.Repeat("x", 10)), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	wantBlind(t, dir+"/upper/in", ReasonOverlayLayer)
	wantBlind(t, dir+"/else", ReasonNone)
}

// TestViewIsRefreshed: an overlay is found that is mounted after the first look at a directory.
func TestViewIsRefreshed(t *testing.T) {
	dir := testutil.Dir(t, testutil.Ext4)
	newLayers()
	d, err := openDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.release()
	first := d.view()
	if first.blind(false) != ReasonNone {
		t.Fatalf("%+v", first)
	}
	if d.view() != first && time.Since(first.at) < viewAge {
		t.Error("two looks in a moment")
	}
	if err := unix.Setxattr(dir, "user.overlay.impure", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	old := *first
	old.at = old.at.Add(-viewAge)
	d.seen.Store(&old)
	if r := d.view().blind(false); r != ReasonOverlayLayer {
		t.Errorf("%q", r)
	}
}

// TestViewOfFUSE mounts a filesystem that nobody serves: it belongs to another user, so the kernel answers us by itself.
func TestViewOfFUSE(t *testing.T) {
	onThread(t, "fuse", func(t *testing.T, top string) {
		unshareMounts(t)
		layout(t, top, "fuse", "more")
		fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		mount(t, "none", top+"/fuse", "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, nobody, nobody))
		root, err := sys.OpenDir(unix.AT_FDCWD, top+"/fuse")
		must(t, err)
		defer unix.Close(root)
		if r := (&dir{fd: root}).view().blind(true); r != ReasonNetworkFS {
			t.Errorf("%q", r)
		}

		// A sweep does not enter what it could not remove anything of, unless it was told to.
		leaveDead(t, top+"/more/dead")
		wantSweep(t, SweepOptions{Recursive: true, Force: true}, []string{top}, map[string]string{top + "/more/dead": "removed"})
		wantSweep(t, SweepOptions{}, []string{top + "/fuse"}, map[string]string{top + "/fuse": "refused permission"})
	})
}
