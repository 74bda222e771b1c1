package ebpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"regexp"
	"strings"
	"testing"

	cilium "github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

func specs(t *testing.T) map[string]*cilium.CollectionSpec {
	t.Helper()
	all := map[string]*cilium.CollectionSpec{}
	for name, load := range map[string]func() (*cilium.CollectionSpec, error){
		"fexit": loadFexit, "tracepoint": loadTracepoint, "sysexit": loadSysexit,
	} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		all[name] = spec
	}
	return all
}

// TestLayout compares struct event as it is in the objects with decode.go.
func TestLayout(t *testing.T) {
	want := map[string]uint32{
		"kind": offKind, "via": offVia, "flags": offFlags, "raw_len": offRawLen, "path_len": offPathLen, "time": offTime,
		"socket": offSocket, "inode": offInode, "pid_inode": offPIDInode, "start": offStart, "dev": offDev, "pid": offPID,
		"cgroup": offCgroup, "tid": offTID, "ns_pid": offNSPID, "uid": offUID, "euid": offEUID, "mount_ns": offMountNS,
		"pid_ns": offPIDNS, "net_ns": offNetNS, "result": offResult, "root_len": offRootLen,
		"comm": offComm, "raw": offRaw, "path": offPath,
	}
	for name, spec := range specs(t) {
		event, ok := btf.UnderlyingType(spec.Maps["scratch"].Value).(*btf.Struct)
		if !ok {
			t.Fatalf("%s: no struct event", name)
		}
		got := map[string]uint32{}
		var walk func(*btf.Struct, uint32)
		walk = func(s *btf.Struct, at uint32) {
			for _, m := range s.Members {
				offset := at + m.Offset.Bytes()
				if head, ok := btf.UnderlyingType(m.Type).(*btf.Struct); ok {
					if head.Size != sizeofHead {
						t.Errorf("%s: the head has %d bytes, want %d", name, head.Size, sizeofHead)
					}
					walk(head, offset)
					continue
				}
				got[m.Name] = offset
			}
		}
		walk(event, 0)
		if len(got) != len(want) {
			t.Errorf("%s: %d members, want %d", name, len(got), len(want))
		}
		for member, offset := range want {
			if at, ok := got[member]; !ok || at != offset {
				t.Errorf("%s: %s is at %d (%t), want %d", name, member, at, ok, offset)
			}
		}
	}
}

// TestObjects looks for what would make the objects differ from machine to machine.
func TestObjects(t *testing.T) {
	absolute := regexp.MustCompile(`(?:/[A-Za-z0-9_.-]+){2,}`)
	for name, object := range map[string][]byte{"fexit": _FexitBytes, "tracepoint": _TracepointBytes, "sysexit": _SysexitBytes} {
		for _, path := range absolute.FindAllString(string(object), -1) {
			// Names of sections and files relative to this directory.
			if !strings.HasPrefix(path, "/bpf/") && !strings.HasPrefix(path, "/syscalls/") {
				t.Errorf("%s: %q", name, path)
			}
		}
	}
}

// message makes what the programs would send.
func message(kind Kind, raw string, elements ...string) []byte {
	path := strings.Join(elements, "\x00")
	if len(elements) > 0 {
		path += "\x00"
	}
	b := make([]byte, offPath, offPath+len(path))
	b[offKind], b[offRawLen] = byte(kind), byte(len(raw))
	copy(b[offRaw:], raw)
	binary.NativeEndian.PutUint32(b[offPathLen:], uint32(len(path)))
	binary.NativeEndian.PutUint32(b[offRootLen:], uint32(len(path)))
	b[offFlags] = flagTop
	return append(b, path...)
}

func TestDecode(t *testing.T) {
	for _, test := range []struct {
		name    string
		message []byte
		path    string
		err     error
	}{
		{"one element", message(KindBound, "s", "s"), "/s", nil},
		{"more", message(KindBound, "s", "s", "b", "a"), "/a/b/s", nil},
		{"none", message(KindBound, "s"), "", errMalformed},
		{"not ended", bytes.TrimRight(message(KindBound, "s", "s"), "\x00"), "", errMalformed},
		{"name too long", message(KindBound, strings.Repeat("s", 109), "s"), "", errMalformed},
		{"short", message(KindBound, "s")[:offPath-1], "", errMalformed},
		{"shorter", message(KindClosed, "s")[:sizeofHead-1], "", errMalformed},
		{"of no kind", message(7, "s", "s"), "", errMalformed},
		{"lost", message(kindLost, "")[:sizeofHead], "", errLost},
		{"closed", message(KindClosed, "")[:sizeofHead], "", nil},
	} {
		got, err := new(decoder).decode(test.message)
		if !errors.Is(err, test.err) || got.Path != test.path {
			t.Errorf("%s: %q, %v; want %q, %v", test.name, got.Path, err, test.path, test.err)
		}
	}
}

// TestDecodePaths: where the way up from the file has led to tells what the path is one from.
func TestDecodePaths(t *testing.T) {
	for _, test := range []struct {
		name       string
		flags      byte
		below      int // bytes below the root directory of the process
		path, full string
		err        error
	}{
		{"root of the mount namespace", flagTop, 6, "/a/b/s", "/a/b/s", nil},
		{"root directory of its own", flagTop, 4, "/b/s", "/a/b/s", nil},
		{"no way to the root of the mount namespace", 0, 4, "/b/s", "", nil},
		{"by no root directory", flagTop | flagOutside, 0, "a/b/s", "/a/b/s", nil},
		{"no way to the root directory", flagTruncate, 0, "a/b/s", "", nil},
		{"root directory behind the end", flagTop, 7, "", "", errMalformed},
		{"root directory within a name", flagTop, 3, "", "", errMalformed},
		{"the file itself a root directory", flagTop, 0, "", "", errMalformed},
	} {
		b := message(KindBound, "s", "s", "b", "a")
		b[offFlags] = test.flags
		binary.NativeEndian.PutUint32(b[offRootLen:], uint32(test.below))
		got, err := new(decoder).decode(b)
		if !errors.Is(err, test.err) {
			t.Errorf("%s: %v, want %v", test.name, err, test.err)
		} else if err == nil && (got.Path != test.path || got.FullPath != test.full) {
			t.Errorf("%s: %q, in full %q; want %q, %q", test.name, got.Path, got.FullPath, test.path, test.full)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(message(KindBound, "./s", "s", "b", "a"))
	f.Add(message(KindClosed, "")[:sizeofHead])
	f.Add(message(kindLost, "")[:sizeofHead])
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		e, err := new(decoder).decode(b)
		if !bytes.Equal(b, before) {
			t.Error("the message is changed")
		}
		if err != nil {
			if !errors.Is(err, errMalformed) && !errors.Is(err, errLost) {
				t.Error(err)
			}
			return
		}
		if len(e.RawPath) > sizeofRaw || len(e.Comm) > sizeofComm || len(e.Path) > len(b) || strings.ContainsRune(e.Path, 0) {
			t.Errorf("%+v", e)
		}
		if e.Kind == KindBound && !e.Truncated && !e.Outside && !strings.HasPrefix(e.Path, "/") {
			t.Errorf("%+v", e)
		}
		if e.FullPath != "" && (e.FullPath[0] != '/' || len(e.FullPath) > len(b)) || strings.ContainsRune(e.FullPath, 0) {
			t.Errorf("%+v", e)
		}
	})
}

func FuzzJoinPath(f *testing.F) {
	f.Add([]byte("c\x00b\x00a\x00"))
	f.Fuzz(func(t *testing.T, elements []byte) {
		path, err := joinPath(elements, true)
		if err != nil {
			return
		}
		// The other way round it is the same again.
		names := strings.Split(path[1:], "/")
		var back []byte
		for i := len(names) - 1; i >= 0; i-- {
			back = append(append(back, names[i]...), 0)
		}
		if !bytes.ContainsRune(elements, '/') && !bytes.Equal(back, elements) {
			t.Errorf("%q became %q", elements, path)
		}
	})
}
