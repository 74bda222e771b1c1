package records

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// damages make, at a path, what is no record of the owner whose name it has. good is what would be one.
var damages = map[string]struct {
	root bool
	why  string // in the error
	make func(path string, good []byte) error
}{
	"empty":            {why: "unexpected end", make: write(func([]byte) []byte { return nil })},
	"truncated":        {why: "unexpected end", make: write(func(b []byte) []byte { return b[:len(b)/2] })},
	"all but a byte":   {why: "unexpected end", make: write(func(b []byte) []byte { return b[:len(b)-1] })},
	"zeros":            {why: "invalid character", make: write(func(b []byte) []byte { return make([]byte, len(b)) })},
	"two":              {why: "after top-level value", make: write(func(b []byte) []byte { return append(b, b...) })},
	"not JSON":         {why: "invalid character", make: write(func([]byte) []byte { return []byte("pid=1") })},
	"another value":    {why: "cannot unmarshal", make: write(func([]byte) []byte { return []byte("[]") })},
	"null":             {why: "version 0", make: write(func([]byte) []byte { return []byte("null") })},
	"deep":             {why: "depth", make: write(func([]byte) []byte { return bytes.Repeat([]byte("["), 100_000) })},
	"not UTF-8":        {why: "not UTF-8", make: edit("/run/web", "/run/\xffeb")},
	"unknown version":  {why: "version 2, known is 1", make: edit(`"version":1`, `"version":2,"id":{}`)},
	"no version":       {why: "version 0", make: edit(`"version":1,`, ``)},
	"process":          {why: `"x:5"`, make: edit(`"5:5005"`, `"x:5"`)},
	"no identity":      {why: `"5"`, make: edit(`"5:5005"`, `"5"`)},
	"no boot":          {why: "boot id", make: edit(`"boot":"`, `"boot":"x`)},
	"uid":              {why: "uid", make: edit(`"uid":33`, `"uid":-1`)},
	"file":             {why: "sock-file identity", make: edit(`"file":"26:`, `"file":"`)},
	"base64":           {why: "base64", make: edit(`"name":"web"`, `"name":{"b64":"?"}`)},
	"claims":           {why: "claims", make: edit(`"claims":[`, `"claims":[1,`)},
	"no path":          {why: "no path", make: edit(`"claims":[`, `"claims":[{"source":"explicit"},`)},
	"no source":        {why: `source ""`, make: edit(`"claims":[`, `"claims":[{"path":"/a"},`)},
	"of another":       {why: `it is that of "6:5006@1000"`, make: edit(`"id":"5:5005@1000"`, `"id":"6:5006@1000"`)},
	"of no id":         {why: `it is that of "../x"`, make: edit(`"id":"5:5005@1000"`, `"id":"../x"`)},
	"of its file name": {why: "it is that of", make: edit(`"id":"5:5005@1000"`, `"id":"5-5005@1000"`)},
	"too large":        {why: "more than 1 MiB", make: write(func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), maxSize)...) })},
	"huge, with holes": {why: "more than 1 MiB", make: func(path string, _ []byte) error {
		return errors.Join(write(same)(path, nil), os.Truncate(path, 1<<40))
	}},
	"directory":         {why: "not a regular file", make: func(path string, _ []byte) error { return os.MkdirAll(path+"/full", 0o700) }},
	"fifo":              {why: "not a regular file", make: func(path string, _ []byte) error { return unix.Mkfifo(path, 0o600) }},
	"symlink to a good": {why: "not a regular file", make: symlink},
	"symlink to none":   {why: "not a regular file", make: func(path string, _ []byte) error { return os.Symlink("none", path) }},
	"socket":            {why: "not a regular file", make: socket},
	"others may write":  {why: "mode 0602", make: mode(0o602)},
	"group may write":   {why: "mode 0620", make: mode(0o620)},
	"another's":         {why: "user 65534's", root: true, make: func(path string, b []byte) error { return errors.Join(write(same)(path, b), os.Chown(path, 65534, 0)) }},
}

func same(b []byte) []byte { return b }

func write(change func([]byte) []byte) func(string, []byte) error {
	return func(path string, good []byte) error { return os.WriteFile(path, change(bytes.Clone(good)), 0o600) }
}

func edit(from, to string) func(string, []byte) error {
	return write(func(b []byte) []byte {
		if !bytes.Contains(b, []byte(from)) {
			panic(fmt.Sprintf("%s is not in %s", from, b))
		}
		return bytes.Replace(b, []byte(from), []byte(to), 1)
	})
}

func mode(perm os.FileMode) func(string, []byte) error {
	return func(path string, b []byte) error { return errors.Join(write(same)(path, b), os.Chmod(path, perm)) }
}

func symlink(path string, b []byte) error {
	return errors.Join(write(same)(filepath.Join(filepath.Dir(path), "elsewhere"), b), os.Symlink("elsewhere", path))
}

func socket(path string, _ []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Close(fd))
}

// TestDamaged has each kind of damage beside two good records, three times.
func TestDamaged(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			if damage.root {
				testutil.Require(t, testutil.Root)
			}
			dir := filepath.Join(testutil.Dir(t, testutil.Tmpfs), "records")
			s := open(t, dir)
			want := map[string]Record{}
			for _, pid := range []int{4, 6} {
				id, r := sample(t, pid, 2)
				must(t, s.Put(id, r))
				want[id] = r
			}
			good, err := encode(sample(t, 5, 2))
			must(t, err)
			path := filepath.Join(dir, "5-5005@1000.json")
			for _, aside := range []string{".damaged", ".damaged.2", ".damaged.3"} {
				_ = os.Remove(filepath.Join(dir, "elsewhere"))
				must(t, damage.make(path, good))
				before, err := os.Lstat(path)
				must(t, err)
				must(t, s.Close())
				s = open(t, dir)
				got, errs := all(s)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("the others (-want +got):\n%s", diff)
				}
				if len(errs) != 1 {
					t.Fatalf("errors: %q", errs)
				}
				var e *DamagedError
				if !errors.As(errs[0], &e) || e.Path != path || e.Aside != path+aside {
					t.Fatalf("%v: %+v", errs[0], e)
				}
				if msg := e.Error(); !strings.Contains(msg, damage.why) || !strings.Contains(msg, e.Path) {
					t.Errorf("%q does not say %q and %s", msg, damage.why, e.Path)
				}
				if after, err := os.Lstat(e.Aside); err != nil || !os.SameFile(before, after) {
					t.Errorf("it is not set aside: %v", err)
				}
				wantAll(t, s, want)
			}
			// There is room for the owner.
			id, r := sample(t, 5, 1)
			must(t, s.Put(id, r))
			want[id] = r
			wantAll(t, s, want)
		})
	}
}

// TestNotSetAside: the name is too long for what is added.
func TestNotSetAside(t *testing.T) {
	dir := filepath.Join(testutil.TempDir(t), "records")
	s := open(t, dir)
	name := strings.Repeat("x", 250) + suffix
	must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	_, errs := all(s)
	var e *DamagedError
	if len(errs) != 1 || !errors.As(errs[0], &e) || e.Aside != "" || !errors.Is(e, unix.ENAMETOOLONG) {
		t.Errorf("%q", errs)
	}
	wantNames(t, dir, name)
}

// TestRefusedByKernel: a record that cannot be read now is not damaged.
func TestRefusedByKernel(t *testing.T) {
	dir := filepath.Join(testutil.TempDir(t), "records")
	s := open(t, dir)
	id, r := sample(t, 1, 1)
	must(t, s.Put(id, r))
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	none := limit
	none.Cur = 0
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &none))
	_, _, readErr := s.load("1-5001@1000.json")
	_, errs := all(s)
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	if !errors.Is(readErr, unix.EMFILE) || len(errs) != 1 || !errors.Is(errs[0], unix.EMFILE) {
		t.Errorf("%v, %q", readErr, errs)
	}
	wantAll(t, s, map[string]Record{id: r})
}

// TestOtherBoot and what an interrupted write leaves.
func TestOtherBoot(t *testing.T) {
	dir := filepath.Join(testutil.TempDir(t), "records")
	s := open(t, dir)
	id, r := sample(t, 1, 1)
	must(t, s.Put(id, r))
	old, before := sample(t, 2, 1)
	before.Process.BootID = "00000000-0000-0000-0000-000000000000"
	b, err := encode(old, before)
	must(t, err)
	for _, name := range []string{"2-5002@1000.json", ".2-5002@1000.json12345", "kept", ".kept.json", "2-5002@1000.json.damaged"} {
		must(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	must(t, os.Remove(filepath.Join(dir, ".kept.json")))
	must(t, s.Close())
	s = open(t, dir)
	records, errs := all(s)
	if diff := cmp.Diff(map[string]Record{id: r}, records); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(errs) != 1 || !errors.Is(errs[0], ErrOtherBoot) || !strings.Contains(errs[0].Error(), "2-5002@1000.json") {
		t.Errorf("errors: %q", errs)
	}
	wantNames(t, dir, "1-5001@1000.json", "kept", "2-5002@1000.json.damaged")
	wantAll(t, s, map[string]Record{id: r})
}

// TestAllEnds when nobody wants more.
func TestAllEnds(t *testing.T) {
	s := open(t, filepath.Join(testutil.TempDir(t), "records"))
	for pid := 1; pid <= 2; pid++ {
		must(t, s.Put(sample(t, pid, 0)))
	}
	entries, err := s.All()
	must(t, err)
	for e, err := range entries {
		must(t, err)
		must(t, s.Delete(e.ID)) // All holds nothing meanwhile
		break
	}
	if got, _ := all(s); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
	must(t, s.Close())
	if _, errs := all(s); len(errs) != 1 || !errors.Is(errs[0], os.ErrClosed) {
		t.Errorf("after close: %q", errs)
	}
}

// TestNewer: what a later version adds to the format is ignored.
func TestNewer(t *testing.T) {
	id, want := sample(t, 1, 1)
	b, err := encode(id, want)
	must(t, err)
	b = bytes.ReplaceAll(b, []byte(`{"`), []byte(`{"added":{"x":[1]},"`))
	gotID, got, err := decode(b)
	if diff := cmp.Diff(want, got); err != nil || gotID != id || diff != "" {
		t.Errorf("%q, %v (-want +got):\n%s", gotID, err, diff)
	}
}

func FuzzDecode(f *testing.F) {
	id, r := sample(f, 5, 2)
	r.Name, r.Claims[0].Path = "\xff", "/\x80"
	good, err := encode(id, r)
	must(f, err)
	f.Add(good)
	f.Add([]byte(`{"version":1,"process":"1:t2","boot":"00000000-0000-0000-0000-000000000000","claims":[{"path_b64":"L/8=","root":{"b64":"Lw=="},"source":"a"}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, r, err := decode(b)
		if err != nil {
			return
		}
		// What is accepted can be put, and comes back the same. It may be longer than before: escapes, base64.
		b, err = encode(id, r)
		if errors.Is(err, ErrTooLarge) {
			return
		}
		must(t, err)
		again, back, err := decode(b)
		if diff := cmp.Diff(r, back, cmpopts.EquateEmpty()); err != nil || again != id || diff != "" {
			t.Errorf("%s: id %q, %v (-first +again):\n%s", b, again, err, diff)
		}
	})
}
