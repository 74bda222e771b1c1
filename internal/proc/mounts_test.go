package proc

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMounts(t *testing.T) {
	want := []Mount{
		{22, 1, 254, 0, "/", "/", "rw,relatime", "ext4", "/dev/root", "rw,discard"},
		{23, 22, 0, 6, "/", "/dev", "rw,nosuid,relatime", "devtmpfs", "devtmpfs", "rw,size=4056420k,nr_inodes=1014105,mode=755"},
		{36, 22, 0, 33, "/", "/mnt/with space\ttab\nline\\back#hash", "rw,nosuid", "tmpfs", "", "rw,size=1024k"},
		{
			37, 22, 0, 34, "/@home a/snap", "/home", "ro,noatime", "btrfs", "/dev/sdb1",
			`rw,space_cache=v2,subvolid=257,subvol=/@home\040a`,
		},
		{
			38, 22, 0, 41, "/", "/merged", "rw,relatime", "overlay", "overlay",
			`rw,lowerdir=/l\0541:/l\134:2,upperdir=/u\040u,workdir=/w,xino=off`,
		},
		{39, 22, 0, 4, "net:[4026532281]", "/run/netns/blue", "rw", "nsfs", "nsfs", "rw"},
		{40, 22, 0, 52, "/", "/home/u/remote", "rw,nosuid,nodev", "fuse.sshfs", "me@host:/srv", "rw,user_id=1000,group_id=1000"},
		{41, 22, 0, 53, "/", "/mnt/nfs", "rw,relatime", "nfs4", "server:/export", "rw,vers=4.2,addr=192.0.2.1"},
	}
	if diff := cmp.Diff(want, collect(t, fixture.Mounts(0))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOption(t *testing.T) {
	const options = `rw,lowerdir=/l\0541:/l\134:2,upperdir=/u\040u,empty=,xino=off`
	for _, tt := range []struct {
		name, value string
		ok          bool
	}{
		{"rw", "", true},
		{"ro", "", false},
		{"lowerdir", `/l,1:/l\:2`, true},
		{"upperdir", "/u u", true},
		{"upper", "", false},
		{"empty", "", true},
		{"xino", "off", true},
	} {
		if value, ok := Option(options, tt.name); value != tt.value || ok != tt.ok {
			t.Errorf("Option(%q) = %q, %v", tt.name, value, ok)
		}
	}
	if _, ok := Option("", "rw"); ok {
		t.Error("an option in no options")
	}
}

func TestMountsMalformed(t *testing.T) {
	whole := "36 22 0:33 / /mnt rw shared:1 - tmpfs none rw"
	if _, err := parseMount(whole); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		"", " ", "36", "36 22", "36 22 0:33 / /mnt rw", "36 22 0:33 / /mnt rw shared:1", "36 22 0:33 / /mnt rw -",
		whole + " more",
		strings.Replace(whole, "36", "x", 1), strings.Replace(whole, "22", "-1", 1), strings.Replace(whole, "0:33", "33", 1),
		strings.Replace(whole, "0:33", "x:33", 1), strings.Replace(whole, "0:33", "0:4294967296", 1),
		strings.Replace(whole, " - ", " -- ", 1),
	} {
		if got, err := parseMount(s); err == nil || got != (Mount{}) {
			t.Errorf("parseMount(%q) = %+v, %v; want an error", s, got, err)
		}
	}
}

func TestUnescape(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "plain": "plain", `\040`: " ", `a\134040b`: `a\040b`, `\`: `\`, `\04`: `\04`, `\400`: `\400`, `\377`: "\xff",
		`\089`: `\089`, `\+12`: `\+12`, `\\040`: `\ `,
	} {
		if got := unescape(s); got != want {
			t.Errorf("unescape(%q) = %q, want %q", s, got, want)
		}
	}
}

// TestMountsLive finds the mount of /proc by its id.
func TestMountsLive(t *testing.T) {
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, "/proc", 0, unix.STATX_MNT_ID, &st))
	for _, pid := range []int{0, os.Getpid()} {
		found := 0
		for m, err := range FS("").Mounts(pid) {
			must(t, err)
			if m.ID != st.Mnt_id {
				continue
			}
			found++
			if m.Type != "proc" || m.Point != "/proc" || m.Root != "/" || m.Major != st.Dev_major || m.Minor != st.Dev_minor {
				t.Errorf("/proc is %+v", m)
			}
		}
		if found != 1 {
			t.Errorf("Mounts(%d): %d mounts have the id of /proc", pid, found)
		}
	}
}

// TestMountsOfThread mounts at a name that the kernel escapes, in a mount namespace of one thread.
func TestMountsOfThread(t *testing.T) {
	testutil.Require(t, testutil.Root)
	point := filepath.Join(testutil.TempDir(t), "a b\tc\nd\\e\\040#\xff")
	must(t, os.Mkdir(point, 0o700))
	child := testutil.Start(t, testutil.Command(t, "mounts", point))
	tid, err := strconv.Atoi(child.Line())
	must(t, err)
	child.Expect("seen by its thread")

	m, ok := lastAt(point, FS("").Mounts(tid))
	if !ok || m.Source != "so urce" || m.Type != "tmpfs" {
		t.Errorf("%+v, %v", m, ok)
	}
	if _, ok := Option(m.Options, "nosuid"); !ok {
		t.Errorf("options %q", m.Options)
	}
	if size, _ := Option(m.SuperOptions, "size"); size != "64k" {
		t.Errorf("options of the filesystem %q", m.SuperOptions)
	}
	if m, ok := lastAt(point, FS("").Mounts(0)); ok {
		t.Errorf("seen from here: %+v", m)
	}
}

// helperMounts mounts a filesystem that its own thread alone sees, and says which thread that is.
func helperMounts() {
	point := os.Args[1]
	runtime.LockOSThread()
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(unix.Unshare(unix.CLONE_NEWNS))
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("so urce", point, "tmpfs", unix.MS_NOSUID, "size=64k"))
	fmt.Println(unix.Gettid())
	if _, ok := lastAt(point, FS("").Mounts(0)); ok {
		fmt.Println("seen by its thread")
	}
	untilHangup()
}

// lastAt returns the last mount at point, the one that covers the others.
func lastAt(point string, mounts iter.Seq2[Mount, error]) (last Mount, ok bool) {
	for m, err := range mounts {
		if err == nil && m.Point == point {
			last, ok = m, true
		}
	}
	return last, ok
}

// FuzzMounts checks that what is parsed survives being written as the kernel would.
func FuzzMounts(f *testing.F) {
	b, err := os.ReadFile(string(fixture) + "/thread-self/mountinfo")
	must(f, err)
	for line := range strings.Lines(string(b)) {
		f.Add(strings.TrimSuffix(line, "\n"))
	}
	f.Fuzz(func(t *testing.T, line string) {
		m, err := parseMount(line)
		if err != nil {
			if m != (Mount{}) {
				t.Errorf("%+v beside %v", m, err)
			}
			return
		}
		again, err := parseMount(encodeMount(m))
		if err != nil || again != m {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
		Option(m.SuperOptions, "lowerdir")
	})
}

func encodeMount(m Mount) string {
	escape := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace
	utoa := func(n uint64) string { return strconv.FormatUint(n, 10) }
	return strings.Join([]string{
		utoa(m.ID), utoa(m.Parent), utoa(uint64(m.Major)) + ":" + utoa(uint64(m.Minor)), escape(m.Root), escape(m.Point), m.Options,
		"-", escape(m.Type), escape(m.Source), m.SuperOptions,
	}, " ")
}

func BenchmarkMounts(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range FS("").Mounts(0) {
			must(b, err)
		}
	}
}
