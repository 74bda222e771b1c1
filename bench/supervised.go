package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// s6 is s6-supervise with one service, whose finish script removes the sock-file.
type s6 struct {
	ctx     context.Context
	stage   *stage
	service string
	cmd     *exec.Cmd
}

func supervisedByS6(ctx context.Context, s *stage) (guard, error) {
	service, err := os.MkdirTemp(s.state, "service")
	if err != nil {
		return nil, err
	}
	for name, script := range map[string]string{
		"run":    fmt.Sprintf("#!/bin/sh\nexec %s\n", strings.Join(s.argv(), " ")),
		"finish": fmt.Sprintf("#!/bin/sh\nexec rm -f %s\n", s.path),
		"down":   "",
	} {
		if err := os.WriteFile(filepath.Join(service, name), []byte(script), 0o755); err != nil {
			return nil, err
		}
	}
	g := &s6{ctx: ctx, stage: s, service: service, cmd: exec.CommandContext(ctx, "s6-supervise", service)}
	g.cmd.Stderr = os.Stderr
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	err = until(ctx, func() bool { return g.control("s6-svok") == nil })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("s6-supervise: %w", err), g.end())
	}
	return g, nil
}

func (g *s6) control(program string, args ...string) error {
	cmd := exec.CommandContext(g.ctx, program, append(args, g.service)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return nil
}

func (g *s6) begin() (int, error) {
	if err := g.control("s6-svc", "-o"); err != nil { // once: otherwise the next one is started by itself
		return 0, err
	}
	return g.stage.await()
}

func (g *s6) process() int { return g.cmd.Process.Pid }

func (g *s6) settle() error { return g.control("s6-svwait", "-D") }

func (g *s6) end() error { return errors.Join(g.control("s6-svc", "-xd"), g.cmd.Wait()) }

// supervisord is one with an event listener that removes the sock-file.
type supervisord struct {
	ctx   context.Context
	stage *stage
	cmd   *exec.Cmd
	rpc   http.Client
}

const supervisordConfig = `[supervisord]
nodaemon=true
silent=true
logfile=%[1]s/log
logfile_maxbytes=0
pidfile=%[1]s/pid
childlogdir=%[1]s
user=%[2]d

[unix_http_server]
file=%[1]s/rpc

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[program:server]
command=%[3]s
autostart=false
autorestart=false
startsecs=0

[eventlistener:remove]
command=%[4]s
events=PROCESS_STATE_EXITED
startsecs=0
`

func supervisedBySupervisord(ctx context.Context, s *stage) (guard, error) {
	state, err := os.MkdirTemp(s.state, "d")
	if err != nil {
		return nil, err
	}
	script, err := filepath.Abs(filepath.Join("bench", "listener.py"))
	if err != nil {
		return nil, err
	}
	config := filepath.Join(state, "config")
	listener := strings.Join([]string{debianPython, script, s.path}, " ")
	text := fmt.Sprintf(supervisordConfig, state, os.Geteuid(), strings.Join(s.argv(), " "), listener)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	g := &supervisord{ctx: ctx, stage: s, cmd: exec.CommandContext(ctx, "supervisord", "-c", config)}
	g.rpc.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(state, "rpc"))
	}}
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	if err := until(ctx, func() bool { return g.is("remove", "RUNNING") == nil }); err != nil {
		said, _ := os.ReadFile(filepath.Join(state, "log"))
		return nil, errors.Join(fmt.Errorf("supervisord: %w\n%s", err, said), g.end())
	}
	return g, nil
}

// call calls a method of its XML-RPC interface.
func (g *supervisord) call(method string, params ...string) (string, error) {
	var body strings.Builder
	fmt.Fprintf(&body, "<methodCall><methodName>supervisor.%s</methodName><params>", method)
	for _, p := range params {
		fmt.Fprintf(&body, "<param><value>%s</value></param>", p)
	}
	body.WriteString("</params></methodCall>")
	request, err := http.NewRequestWithContext(g.ctx, http.MethodPost, "http://supervisord/RPC2", strings.NewReader(body.String()))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "text/xml")
	response, err := g.rpc.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(response.Body)
	if err == nil && strings.Contains(string(reply), "<fault>") {
		err = fmt.Errorf("supervisord: %s: %s", method, reply)
	}
	return string(reply), err
}

// is says whether a process is in a state. An error is that it is not.
func (g *supervisord) is(process, state string) error {
	info, err := g.call("getProcessInfo", "<string>"+process+"</string>")
	if err == nil && !strings.Contains(info, "<string>"+state+"</string>") {
		err = fmt.Errorf("%s is not %s", process, state)
	}
	return err
}

func (g *supervisord) begin() (int, error) {
	if _, err := g.call("startProcess", "<string>server</string>", "<boolean>0</boolean>"); err != nil {
		return 0, err
	}
	return g.stage.await()
}

func (g *supervisord) process() int { return g.cmd.Process.Pid }

func (g *supervisord) settle() error {
	return until(g.ctx, func() bool { return g.is("server", "EXITED") == nil })
}

func (g *supervisord) end() error {
	g.rpc.CloseIdleConnections()
	return errors.Join(g.cmd.Process.Signal(unix.SIGTERM), g.cmd.Wait())
}

// until asks now and then until it is so.
func until(ctx context.Context, so func() bool) error {
	const patience = 20 * time.Second
	for begin := time.Now(); time.Since(begin) < patience; {
		if so() {
			return nil
		}
		if err := wait(ctx, look); err != nil {
			return err
		}
	}
	return fmt.Errorf("not within %s", patience)
}
