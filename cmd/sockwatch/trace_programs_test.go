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
		{
			name: "haproxy", workers: 1, renames: true, args: "-W -f DIR/haproxy.cfg",
			files: map[string]string{"haproxy.cfg": `defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s
frontend f
	bind unix@DIR/s
`},
		},
	})
	for _, p := range traced {
		t.Run(p.name, func(t *testing.T) {
			testutil.Require(t, testutil.Program(p.name))
			dir := testutil.Dir(t, testutil.Ext4)
			d := newReborn(t, fmt.Sprintf("[[rule]]\npath = [%q]\naction = \"reap\"\n\n[trace]\nhooks = \"auto\"\n", dir+"/s"))
			s := p.serve(t, dir)
			// The binds of the whole machine can be more than are read in time. Then what is alive is looked for, and only that is found.
			if !p.renames { // it may be claimed by either name
				d.claimed(s.path)
			}
			s.killMaster()
			if len(s.workers) > 0 {
				d.held(s.path)
				s.killWorkers()
			}
			d.gone(s.path)
		})
	}
}
