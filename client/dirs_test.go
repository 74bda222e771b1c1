package client

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestRuntimeDir(t *testing.T) {
	root := os.Geteuid() == 0
	for _, tt := range []struct{ own, xdg, want, asRoot string }{
		{"/own", "/xdg", "/own", "/own"},
		{"", "/xdg", "/xdg/sockwatch", "/run/sockwatch"},
		{"", "", "", "/run/sockwatch"},
		{"relative", "/xdg", "", ""},
		{"", "relative", "", "/run/sockwatch"},
	} {
		t.Setenv(RuntimeDirEnv, tt.own)
		t.Setenv("XDG_RUNTIME_DIR", tt.xdg)
		want := tt.want
		if root {
			want = tt.asRoot
		}
		got, err := RuntimeDir()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%+v: %q, %v", tt, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), "_RUNTIME_DIR") {
			t.Errorf("it does not say what to set: %v", err)
		}
	}
}

func TestControlSocket(t *testing.T) {
	dir := testutil.TempDir(t)
	t.Setenv(RuntimeDirEnv, "")
	t.Setenv("XDG_RUNTIME_DIR", dir)
	own := filepath.Join(dir, "sockwatch", ControlName)
	must(t, os.Mkdir(filepath.Dir(own), 0o700))
	find := func() (string, error) {
		t.Helper()
		path, err := ControlSocket()
		if err != nil && !errors.Is(err, ErrNoDaemon) {
			t.Error(err)
		}
		return path, err
	}
	// A machine may have a daemon of its own.
	if path, err := find(); path == own || (err != nil && (!strings.Contains(err.Error(), own+": no such file") ||
		!strings.Contains(err.Error(), "/run/sockwatch/control: "))) {
		t.Error(path, err)
	}
	must(t, os.WriteFile(own, nil, 0o600))
	if path, err := find(); path == own || (err != nil && !strings.Contains(err.Error(), own+": not a socket")) {
		t.Error(path, err)
	}
	must(t, os.Remove(own))
	l, err := net.Listen("unix", own)
	must(t, err)
	defer l.Close()
	if path, err := find(); path != own || err != nil {
		t.Error(path, err)
	}

	// The variable of its own is the only place then.
	t.Setenv(RuntimeDirEnv, filepath.Join(dir, "other"))
	path, err := find()
	want := ErrNoDaemon.Error() + " (" + filepath.Join(dir, "other", ControlName) + ": no such file or directory)"
	if path != "" || err == nil || err.Error() != want {
		t.Error(path, err)
	}
	if _, err := Dial(t.Context(), ""); !errors.Is(err, ErrNoDaemon) {
		t.Error(err)
	}
	t.Setenv(RuntimeDirEnv, filepath.Dir(own))
	if path, err := find(); path != own || err != nil {
		t.Error(path, err)
	}
	c, err := Dial(t.Context(), "")
	must(t, err)
	must(t, c.Close())
	t.Setenv(RuntimeDirEnv, "relative")
	if _, err := ControlSocket(); err == nil || errors.Is(err, ErrNoDaemon) {
		t.Error(err)
	}
}
