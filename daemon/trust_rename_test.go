package daemon

import (
	"fmt"
	"os"
	"testing"

	"github.com/sockwatch/sockwatch/client"
)

// TestTrustOfRenamed: a sock-file that was claimed with a user's rights is not removed with more of them when it gets another name in a
// bindspace, which is root's or the configuration's; where its user may remove it, it is removed.
func TestTrustOfRenamed(t *testing.T) {
	p := hostilePlace(t)
	p.stop()
	for _, name := range []string{"configured", "registered"} {
		must(t, os.Mkdir(p.path(name), 0o755))
	}
	must(t, os.WriteFile(p.conf, []byte(fmt.Sprintf("[[bindspace]]\npath = %q\n[[bindspace]]\npath = %q\n",
		p.path("configured"), p.path("sticky"))), 0o600))
	p.start()
	c := p.dial()
	roots := startPuppet(t)
	_, err := c.c.Watch(t.Context(), client.WatchRequest{Process: roots.pid(), Bindspaces: []string{p.path("registered")}})
	must(t, err)
	for dir, want := range map[string]string{"configured": "refused", "registered": "refused", "sticky": "removed"} {
		for how, give := range map[string]func(oldname, newname string) error{"renamed": os.Rename, "linked": os.Link} {
			t.Run(dir+"/"+how, func(t *testing.T) {
				before, after := p.path("open/"+dir+how), p.path(dir+"/"+how)
				own := startPuppet(t, as(hostile))
				own.do("dial", p.control())
				own.do("bind", before)
				_, err := own.watch(own.pid())
				must(t, err)
				c.claimed(own.child.PID(), before)
				must(t, give(before, after)) // as the user could have done while the directory was open to him
				c.claimed(own.child.PID(), after)
				own.kill()
				if e := c.wantOutcome(after, want); want == "refused" && e.Reason != "permission" {
					t.Errorf("%+v", e)
				}
				c.until("it is settled", func() bool { _, there := c.owner(own.child.PID()); return !there })
				flush(t, p, c)
				if exists(t, after) != (want == "refused") {
					t.Errorf("%s, and %s exists: %v", want, after, exists(t, after))
				}
			})
		}
	}
	p.stop()
}
