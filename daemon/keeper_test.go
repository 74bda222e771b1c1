package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// TestRecordOfSeveral has several sock-files found of a process that was gone before, each by itself: its record has them all, until the last
// one is settled.
func TestRecordOfSeveral(t *testing.T) {
	testutil.Require(t, testutil.Root) // to see who has a socket
	p := newPlace(t)
	d := p.serve(config.Config{})
	c := p.dial()
	bound := startPuppet(t)
	pid, err := strconv.Atoi(bound.pid())
	must(t, err)
	process, err := pidfd.Open(pid)
	must(t, err)
	id, err := process.Identity()
	must(t, err)
	must(t, process.Close())
	bound.kill()

	holders, paths := []*puppetOf{startPuppet(t), startPuppet(t)}, []string{p.path("a"), p.path("b")}
	for i, path := range paths {
		holders[i].do("bind", path)
		f, err := reap.Open(path)
		must(t, err)
		_, _, err = d.watcher.ClaimFor(id, "gone", f, watch.SourceBindspace)
		must(t, err)
	}
	kept := func() (n int) { // in the record, which is replaced as a whole
		for _, file := range p.recordsOf(bound) {
			b, err := os.ReadFile(file)
			if !errors.Is(err, fs.ErrNotExist) {
				must(t, err)
			}
			for _, path := range paths {
				n += bytes.Count(b, []byte(strconv.Quote(path)))
			}
		}
		return n
	}
	for i, path := range paths {
		c.until(path+" is with its holder", func() bool {
			return slices.ContainsFunc(d.watcher.Owners(), func(o *watch.Owner) bool {
				return slices.ContainsFunc(o.Results(), func(r reap.Result) bool { return r.Path == path && r.Reason == reap.ReasonHolder })
			})
		})
		c.until(fmt.Sprint(len(paths)-i, " are in the record"), func() bool { return kept() == len(paths)-i })
		holders[i].kill()
		c.gone(path)
	}
	p.noRecords()
}
