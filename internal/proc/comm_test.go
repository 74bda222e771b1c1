package proc

import "testing"

func TestComm(t *testing.T) {
	for pid, want := range map[int]string{26231: "vim", 26232: hostileComm} {
		if got, err := fixture.Comm(pid); err != nil || got != want {
			t.Errorf("%d: %q, %v; want %q", pid, got, err, want)
		}
	}
	for s, want := range map[string]string{"\n": "", "a\n\n": "a\n", "\xff\n": "\xff"} {
		if got, err := parseComm([]byte(s)); err != nil || got != want {
			t.Errorf("parseComm(%q) = %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "a"} {
		if got, err := parseComm([]byte(s)); err == nil {
			t.Errorf("parseComm(%q) = %q; want an error", s, got)
		}
	}
}

func FuzzComm(f *testing.F) {
	f.Add([]byte("vim\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseComm(b); err == nil && s+"\n" != string(b) {
			t.Errorf("%q", s)
		}
	})
}
