package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// packages are those of Debian, by the program of each that is looked for.
var packages = map[string]string{
	"s6-supervise": "s6", "tini": "tini", "supervisord": "supervisor", debianPython: "python3", "strace": "strace", "bpftrace": "bpftrace",
}

// debianPython is the one that supervisor's modules are for.
const debianPython = "/usr/bin/python3"

// findPeers is who can be measured here, the floor first, and why others cannot.
func findPeers(ctx context.Context, dir string) (found []peer, leftOut []string, err error) {
	floor, err := compile(ctx, "floor", dir)
	if err != nil {
		return nil, nil, err
	}
	sockwatch, err := buildSockwatch(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	python, err := filepath.Abs(filepath.Join("bench", "peer.py"))
	if err != nil {
		return nil, nil, err
	}
	for _, p := range []peer{
		{name: "C floor", start: stranger(func(s *stage) []string { return []string{floor, "guard", s.serverDir()} })},
		{name: "sockwatch: package watch", start: stranger(func(s *stage) []string {
			return []string{"/proc/self/exe", "guard", s.serverDir()}
		})},
		{name: "sockwatch run", start: foreground(func(s *stage) []string {
			return append([]string{sockwatch, "run", "--bind", s.path, "--"}, s.argv()...)
		})},
		{name: "sockwatch daemon", start: registered(sockwatch)},
		{name: "sockwatch daemon --trace", root: true, start: seenByTrace(sockwatch)},
		{name: "Go: cmd.Wait, os.Remove", start: parent(func(s *stage) []string {
			return append([]string{"/proc/self/exe", "parent"}, s.argv()...)
		})},
		{name: "Python: Popen.wait, os.unlink", needs: []string{debianPython}, start: parent(func(s *stage) []string {
			return append([]string{debianPython, python, "parent"}, s.argv()...)
		})},
		{name: "s6-supervise, finish script", needs: []string{"s6-supervise"}, start: supervisedByS6},
		{name: "tini, sh -c 'server; rm'", needs: []string{"tini"}, start: foreground(func(s *stage) []string {
			return append([]string{"tini", "-s", "--", "sh", "-c", `"$0" "$1" "$2"; rm -f "$1"`}, s.argv()...)
		})},
		{
			name: "supervisord, event listener", needs: []string{"supervisord", debianPython}, slow: true,
			start: supervisedBySupervisord,
		},
		{
			name: "Python: polls each 100 ms", needs: []string{debianPython}, period: 100 * time.Millisecond,
			start: stranger(func(s *stage) []string { return []string{debianPython, python, "poll", s.path} }),
		},
	} {
		if why := cannot(p); why != "" {
			leftOut = append(leftOut, fmt.Sprintf("%s: %s", p.name, why))
			continue
		}
		found = append(found, p)
	}
	return found, leftOut, nil
}

// cannot is why a peer cannot be measured here.
func cannot(p peer) string {
	if p.root && os.Geteuid() != 0 {
		return "it needs root"
	}
	for _, program := range p.needs {
		if _, err := exec.LookPath(program); err != nil {
			return "not measured: apt-get install " + packages[program]
		}
	}
	return ""
}

// installMissing installs the packages of the programs that are missing, by Debian's apt-get.
func installMissing(ctx context.Context) {
	var missing []string
	for program, name := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, name)
		}
	}
	if _, err := exec.LookPath("apt-get"); len(missing) == 0 || err != nil || os.Geteuid() != 0 {
		return
	}
	fmt.Fprintf(os.Stderr, "installing %s\n", strings.Join(missing, ", "))
	for _, argv := range [][]string{{"update", "-q"}, append([]string{"install", "-qy", "--no-install-recommends"}, missing...)} {
		cmd := exec.CommandContext(ctx, "apt-get", argv...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if err := cmd.Run(); err != nil { // then they are left out, which the report says
			fmt.Fprintf(os.Stderr, "apt-get %s: %s\n", strings.Join(argv, " "), err)
		}
	}
}

// compared are Debian's packages of what a part compares with.
var compared = map[string][]string{
	"peers":  {"python3", "s6", "tini", "supervisor"},
	"sweep":  {"findutils", "coreutils", "systemd"},
	"starts": {"coreutils"},
	"trace":  {"strace", "bpftrace"},
}

// versions are those of what a part compares with, where it is there.
func versions(ctx context.Context, part string) string {
	var all []string
	for _, name := range compared[part] {
		out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", name).Output()
		if err == nil && len(out) > 0 {
			all = append(all, name+" "+string(out))
		}
	}
	return strings.Join(all, ", ")
}
