package notifyd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Message{
		"BIND=/run/a":                       {Changes: []Change{{Path: "/run/a"}}},
		"BIND=/run/a\n":                     {Changes: []Change{{Path: "/run/a"}}},
		"UNBIND=/run/a\nBIND=/b c=d\xff":    {Changes: []Change{{Unbind: true, Path: "/run/a"}, {Path: "/b c=d\xff"}}},
		"PID=17\nNAME=web\nBIND=/s":         {PID: 17, Name: "web", Changes: []Change{{Path: "/s"}}},
		"FUTURE=x\n\nBIND=/s\nALSO=\n":      {Changes: []Change{{Path: "/s"}}},
		"NAME=only a name":                  {Name: "only a name"},
		"BIND=/s\r":                         {Changes: []Change{{Path: "/s\r"}}},
		"BIND=" + strings.Repeat("/", 4095): {Changes: []Change{{Path: strings.Repeat("/", 4095)}}},
	} {
		got, err := Parse([]byte(in))
		if err != nil {
			t.Errorf("%q: %v", in, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", in, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "\n", "garbage", "=/a", "BIND=", "BIND=relative", "BIND=/a\x00b", "BIND=" + strings.Repeat("/", 4096),
		"BIND=/a\nPID=0", "BIND=/a\nPID=-1", "BIND=/a\nPID=99999999999", "BIND=/a\nPID=1x", "BIND=/a\nNAME=a/b", "NAME=", "PID=1", "FUTURE=x",
		"BIND=/good\nBIND=bad",
	} {
		if got, err := Parse([]byte(in)); err == nil {
			t.Errorf("%q: %+v", in, got)
		} else if len(err.Error()) > 500 {
			t.Errorf("%q: an error of %d bytes", in, len(err.Error()))
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("BIND=/run/a\nPID=17\nNAME=x\nUNBIND=/b\n"))
	f.Add([]byte("A=\x00\nBIND="))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		for _, c := range m.Changes {
			if c.Path == "" || c.Path[0] != '/' || strings.ContainsAny(c.Path, "\n\x00") || len(c.Path) > maxPath {
				t.Errorf("%q gives the path %q", b, c.Path)
			}
		}
		if m.PID < 0 || strings.ContainsAny(m.Name, "/\n\x00") {
			t.Errorf("%q gives %+v", b, m)
		}
	})
}
