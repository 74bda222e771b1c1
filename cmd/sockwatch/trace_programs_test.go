package main

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestDaemonTracesPrograms: nobody registers them, their binds are seen; and a rule says that what they leave is to go.
func TestDaemonTracesPrograms(t *testing.T) {
	testutil.Require(t, testutil.BPF)
	traced := slices.Concat(programs, []program{
		{name: "tmux", args: "-D -f /dev/null -S DIR/s"},
		{name: "ssh-agent", args: "-D -a DIR/s"},
	})
	for _, p := range traced {
		t.Run(p.name, func(t *testing.T) {
			testutil.Require(t, testutil.Program(p.name))
			dir := testutil.Dir(t, testutil.Ext4)
			d := newReborn(t, fmt.Sprintf("[[rule]]\npath = [%q]\naction = \"reap\"\n\n[trace]\nhooks = \"auto\"\n", dir+"/**"))
			s := p.serve(t, dir)
			// The binds of the whole machine can be more than are read in time. Then what is alive is looked for, and only that is found.
			d.claimed(s.path)
			s.killMaster()
			if len(s.workers) > 0 {
				d.held(s.path)
				s.killWorkers()
			}
			d.gone(s.path)
		})
	}
}
