package records

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// onBoth runs a test in a directory for records on a tmpfs, where they belong, and on ext4.
func onBoth(t *testing.T, f func(t *testing.T, dir string)) {
	for _, fs := range []testutil.Feature{testutil.Tmpfs, testutil.Ext4} {
		t.Run(fs.String(), func(t *testing.T) { f(t, filepath.Join(testutil.Dir(t, fs), "records")) })
	}
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// sample is a Record of this boot with n claims.
func sample(t testing.TB, pid, n int) (string, Record) {
	t.Helper()
	boot, err := proc.FS("").BootID()
	must(t, err)
	r := Record{
		Process: pidfd.Identity{PID: pid, Inode: 5000 + uint64(pid), BootID: boot}, Comm: "nginx", UID: 33,
		Claimant: &asuser.User{UID: 1000, GID: 1000, Groups: []uint32{27, 1000}},
		Name:     "web", Bindspaces: []string{"/run/web"}, Conventions: []string{"{name}@{pid}.sock"},
	}
	for i := range n {
		r.Claims = append(r.Claims, Claim{
			Path: fmt.Sprintf("/run/web/worker-%d.sock", i), Source: "explicit",
			File: "26:48813:01000000b0be0000cad97bd3", Named: true, Alive: true,
		})
	}
	return fmt.Sprintf("%s@1000", r.Process), r
}

// all returns what All gives.
func all(s *Store) (map[string]Record, []error) {
	records := map[string]Record{}
	entries, err := s.All()
	if err != nil {
		return records, []error{err}
	}
	var errs []error
	for e, err := range entries {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		records[e.ID] = e.Record
	}
	return records, errs
}

func wantAll(t *testing.T, s *Store, want map[string]Record) {
	t.Helper()
	got, errs := all(s)
	if len(errs) > 0 {
		t.Errorf("errors: %q", errs)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	got := []string{}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	want = append(want, lockName)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names in %s (-want +got):\n%s", dir, diff)
	}
}

func TestStore(t *testing.T) {
	onBoth(t, func(t *testing.T, dir string) {
		s := open(t, dir)
		want := map[string]Record{}
		put := func(id string, r Record) {
			t.Helper()
			must(t, s.Put(id, r))
			want[id] = r
		}
		id, r := sample(t, 1234, 2)
		put(id, r)
		wantNames(t, dir, "1234-6234@1000.json")

		// Every field, with bytes of every kind.
		odd := "\x01\xff\n<\u2028\ufffd\""
		r.Process = pidfd.Identity{PID: 7, StartTime: 1<<64 - 1, BootID: r.Process.BootID}
		r.Comm, r.Name, r.UID, r.Claimant = odd, odd, 1<<32-1, nil
		r.Bindspaces, r.Conventions = []string{"/" + odd, "/a"}, []string{odd}
		r.Claims = []Claim{
			{Path: "/" + odd, Source: "sweep", Root: "/srv/" + odd},
			{Path: "/pending", Source: "convention", Named: true},
		}
		put("7:t18446744073709551615@0", r)
		wantAll(t, s, want)

		id, r = sample(t, 1234, 3)
		put(id, r)
		id, r = sample(t, 99, 0)
		put(id, r)
		wantAll(t, s, want)
		must(t, s.Close())
		if err := s.Put(id, r); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("put after close: %v", err)
		}
		if err := s.Delete(id); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("delete after close: %v", err)
		}

		s = open(t, dir)
		wantAll(t, s, want)
		for range 2 {
			must(t, s.Delete(id))
		}
		delete(want, id)
		wantAll(t, s, want)
	})
}

// TestFiles takes the identities of sock-files of both filesystems through a record.
func TestFiles(t *testing.T) {
	onBoth(t, func(t *testing.T, dir string) {
		s := open(t, dir)
		path := filepath.Join(filepath.Dir(dir), "s")
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(fd)
		must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
		f, err := reap.Open(path)
		must(t, err)
		defer f.Close()
		id, r := sample(t, 1, 1)
		r.Claims[0].File = f.ID().String()
		must(t, s.Put(id, r))
		got, _ := all(s)
		var back reap.ID
		must(t, back.UnmarshalText([]byte(got[id].Claims[0].File)))
		if back != f.ID() || !back.Stable() {
			t.Errorf("%v came back as %v", f.ID(), back)
		}
	})
}

func TestPutRefuses(t *testing.T) {
	dir := filepath.Join(testutil.TempDir(t), "records")
	s := open(t, dir)
	id, good := sample(t, 1, 1)
	for _, bad := range []string{
		"", ".", "..", "-", "1-2@0", "/", "a/b", ".a", "a\x00", "a\n", "\xff", ":1", strings.Repeat("a", 129),
	} {
		if err := s.Put(bad, good); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("put %q: %v does not name it", bad, err)
		}
		if err := s.Delete(bad); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("delete %q: %v does not name it", bad, err)
		}
	}
	for name, spoil := range map[string]func(r *Record){
		"no pid":          func(r *Record) { r.Process.PID = 0 },
		"pid alone":       func(r *Record) { r.Process.Inode = 0 },
		"both identities": func(r *Record) { r.Process.StartTime = 1 },
		"no boot":         func(r *Record) { r.Process.BootID = "" },
		"another boot":    func(r *Record) { r.Process.BootID = "00000000-0000-0000-0000-000000000000" },
		"no path":         func(r *Record) { r.Claims[0].Path = "" },
		"NUL in path":     func(r *Record) { r.Claims[0].Path = "/a\x00" },
		"no source":       func(r *Record) { r.Claims[0].Source = "" },
		"odd source":      func(r *Record) { r.Claims[0].Source = "\xff" },
		"no file":         func(r *Record) { r.Claims[0].File = "1:2" },
		"too large":       func(r *Record) { r.Name = strings.Repeat("x", maxSize) },
	} {
		_, r := sample(t, 1, 1)
		spoil(&r)
		err := s.Put(id, r)
		if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "1-5001@1000.json")) {
			t.Errorf("%s: %v does not name the record", name, err)
		}
		if errors.Is(err, ErrTooLarge) != (name == "too large") || errors.Is(err, ErrOtherBoot) != (name == "another boot") {
			t.Errorf("%s: %v", name, err)
		}
	}
	wantNames(t, dir)
}

// TestLargest puts as much as there is room for.
func TestLargest(t *testing.T) {
	s := open(t, filepath.Join(testutil.TempDir(t), "records"))
	id, r := sample(t, 1, 1)
	b, err := encode(id, r)
	must(t, err)
	r.Name += strings.Repeat("x", maxSize-len(b))
	must(t, s.Put(id, r))
	wantAll(t, s, map[string]Record{id: r})
	r.Name += "x"
	if err := s.Put(id, r); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

// TestConcurrent works on different ids, while others read.
func TestConcurrent(t *testing.T) {
	dir := filepath.Join(testutil.Dir(t, testutil.Tmpfs), "records")
	s := open(t, dir)
	want := map[string]Record{}
	var writers sync.WaitGroup
	for pid := 1; pid <= 8; pid++ {
		id, r := sample(t, pid, pid*20)
		want[id] = r
		_, short := sample(t, pid, 0)
		writers.Go(func() {
			for range 100 {
				for _, err := range []error{s.Put(id, short), s.Put(id, r), s.Delete(id), s.Put(id, r)} {
					if err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	done := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			if _, errs := all(s); len(errs) > 0 {
				t.Errorf("while others write: %q", errs)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	writers.Wait()
	close(done)
	reader.Wait()
	wantAll(t, s, want)
	names := []string{}
	for id := range maps.Keys(want) {
		name, err := fileName(id)
		must(t, err)
		names = append(names, name)
	}
	wantNames(t, dir, names...)
}

func TestDirectory(t *testing.T) {
	parent := testutil.TempDir(t)
	dir := filepath.Join(parent, "records")
	must(t, open(t, dir).Close())
	info, err := os.Stat(dir)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("made with mode %v", info.Mode())
	}
	refused := func(dir string, want error) {
		t.Helper()
		s, err := Open(dir)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v, want %v about %s", err, want, dir)
		}
	}
	for _, mode := range []fs.FileMode{0o720, 0o702, 0o777 | fs.ModeSticky} {
		must(t, os.Chmod(dir, mode))
		refused(dir, fs.ErrPermission)
	}
	must(t, os.Chmod(dir, 0o755))
	must(t, open(t, dir).Close())

	refused(filepath.Join(parent, "none", "records"), fs.ErrNotExist)
	must(t, os.WriteFile(filepath.Join(parent, "file"), nil, 0o600))
	refused(filepath.Join(parent, "file"), unix.ENOTDIR)
	must(t, os.Symlink("records", filepath.Join(parent, "link")))
	refused(filepath.Join(parent, "link"), unix.ENOTDIR)
	t.Run("of another user", func(t *testing.T) {
		testutil.Require(t, testutil.Root)
		must(t, os.Chown(dir, 65534, 0))
		refused(dir, fs.ErrPermission)
	})
}

// TestDirectoryAbove: whoever may rename the directory could put another one in its place.
func TestDirectoryAbove(t *testing.T) {
	parent := testutil.TempDir(t)
	dir := filepath.Join(parent, "records")
	refused := func() {
		t.Helper()
		s, err := Open(dir)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), parent) {
			t.Errorf("%v, want %v about %s", err, fs.ErrPermission, parent)
		}
	}
	for mode, ok := range map[fs.FileMode]bool{
		0o700: true, 0o755: true, 0o777 | fs.ModeSticky: true, 0o777: false, 0o720: false, 0o702: false,
	} {
		must(t, os.Chmod(parent, mode))
		if ok {
			must(t, open(t, dir).Close())
		} else {
			refused()
		}
	}
	must(t, os.Chmod(parent, 0o755))
	t.Run("of another user", func(t *testing.T) {
		testutil.Require(t, testutil.Root)
		must(t, os.Chown(parent, 65534, 0))
		refused()
		must(t, os.Chmod(parent, 0o777|fs.ModeSticky))
		refused()
	})
}

// TestFull fails to write: there is what was there before.
func TestFull(t *testing.T) {
	dir := filepath.Join(testutil.TempDir(t), "records")
	s := open(t, dir)
	id, r := sample(t, 1, 1)
	must(t, s.Put(id, r))
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &limit))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1000, Max: limit.Max}))
	_, more := sample(t, 1, 100)
	err := s.Put(id, more) // the Go runtime ignores SIGXFSZ
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limit))
	if !errors.Is(err, unix.EFBIG) {
		t.Errorf("%v, want EFBIG", err)
	}
	wantAll(t, s, map[string]Record{id: r})
	wantNames(t, dir, "1-5001@1000.json")
}

func BenchmarkPut(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("claims=%d", n), func(b *testing.B) {
			s := open(b, filepath.Join(testutil.Dir(b, testutil.Tmpfs), "records"))
			id, r := sample(b, 1, n)
			for b.Loop() {
				must(b, s.Put(id, r))
			}
		})
	}
}

// BenchmarkRestart reads the records of 5,000 owners.
func BenchmarkRestart(b *testing.B) {
	dir := filepath.Join(testutil.Dir(b, testutil.Tmpfs), "records")
	s := open(b, dir)
	for pid := range 5000 {
		must(b, s.Put(sample(b, pid+1, 2)))
	}
	must(b, s.Close())
	for b.Loop() {
		s := open(b, dir)
		if records, errs := all(s); len(records) != 5000 || len(errs) > 0 {
			b.Fatalf("%d records, %q", len(records), errs)
		}
		must(b, s.Close())
	}
}
