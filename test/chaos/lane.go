package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
)

// lane is a name under which one server lives after the other.
type lane struct {
	w      *war
	path   string
	hows   []how
	orphan sync.WaitGroup // heirs that live on beside the next servers
}

// lane makes a lane. Every third is in the bindspace.
func (w *war) lane(name string, n int) *lane {
	l := &lane{w: w, hows: []how{watched, named, both, claimed, reported}, path: w.dirs[watched] + "/" + name}
	if n%3 == 0 {
		l.path = w.dirs[found] + "/" + name
		l.hows = append(l.hows, found, found, found)
	}
	return l
}

const (
	// prime is when a server is killed at the latest that is killed before it is up.
	prime = 20 * time.Millisecond
	// life is how long servers and heirs live at the longest.
	life = 200 * time.Millisecond
)

// live is one life, and its end.
func (l *lane) live() {
	s, err := l.start(l.hows[rand.IntN(len(l.hows))])
	if err != nil {
		l.w.fail(err)
		return
	}
	if rand.IntN(10) == 0 { // what it has registered by then, if anything, nobody knows
		pause(rand.N(prime))
		s.kill()
		l.w.deaths.Add(1)
		return
	}
	if !s.expect("up") {
		return
	}
	l.w.happened()
	pause(rand.N(life))
	story := string(s.how)
	if rand.IntN(8) == 0 {
		story += ", bound anew"
		s.order(rebind)
		if !s.expect("up") {
			return
		}
		l.w.happened()
		pause(rand.N(life))
	}
	taken := false // by the next server, while an heir lives
	switch n := rand.IntN(10); {
	case n < 3 && s.how.known():
		story += ", bequeathed"
		taken = l.bequeath(s)
	case n == 3:
		story += ", closed"
		s.order(tidy)
		if s.expect("ok") {
			l.w.closed.Add(1)
		}
		s.wait()
	case n == 4: // from outside, unchecked
		story += ", killed"
		s.kill()
		l.w.deaths.Add(1)
	default:
		s.die()
	}
	l.w.happened()
	if !taken && rand.IntN(2) == 0 && l.w.ctx.Err() == nil {
		l.gone(story)
	}
}

// bequeath has the server die and leave its socket to an heir, who dies after some time. Taken: he lives on meanwhile.
func (l *lane) bequeath(s *process) (taken bool) {
	s.order(fork)
	line := s.line()
	pid, err := strconv.Atoi(strings.TrimPrefix(line, "heir "))
	if err != nil {
		s.failed(line)
		return false
	}
	_ = s.cmd.Wait() // the server has died
	l.w.deaths.Add(1)
	end := func(order byte) {
		pause(rand.N(life))
		s.order(order)
		if s.expect("ok") {
			l.w.deaths.Add(1)
			l.w.heirs.Add(1)
		}
		s.close()
		// It is our child by now.
		for {
			if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}
	if rand.IntN(3) > 0 {
		end(die)
		return false
	}
	l.orphan.Go(func() { end(endure) })
	return true
}

// last is the last life. When it is over, so is everything that has its name.
func (l *lane) last() {
	l.orphan.Wait()
	s, err := l.start(l.hows[rand.IntN(len(l.hows))])
	if err != nil {
		l.w.fail(err)
		return
	}
	if s.expect("up") {
		s.die()
		if l.w.ctx.Err() == nil {
			l.gone(string(s.how) + ", the last")
		}
	}
}

// stay is a life until it is all over.
func (l *lane) stay(over <-chan struct{}) {
	s, err := l.start(l.hows[rand.IntN(len(l.hows))])
	if err != nil {
		l.w.fail(err)
		return
	}
	if !s.expect("up") {
		return
	}
	if err := s.out.SetReadDeadline(time.Time{}); err != nil {
		l.w.fail(err)
	}
	said := make(chan string, 1) // not before its end, unless something is wrong
	go func() {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			line = err.Error()
		}
		said <- strings.TrimSuffix(line, "\n")
	}()
	line := ""
	select {
	case line = <-said:
	case <-l.w.ctx.Done():
	case <-over:
	}
	if line == "" {
		s.order(die)
		line = <-said
	}
	if line != "ok" {
		s.failed(line)
		return
	}
	s.wait()
	l.w.deaths.Add(1)
	if l.w.ctx.Err() == nil {
		l.gone(string(s.how) + ", steady")
	}
}

// gone waits until the daemon has removed what has died.
func (l *lane) gone(story string) {
	l.w.relied.Add(1)
	err := until(func() (bool, error) {
		there, err := exists(l.path)
		return !there, err
	})
	if err != nil {
		l.w.fail(fmt.Errorf("%s is left: %w; it was that of a server that was %s; of it the daemon knows %s", l.path, err, story, l.w.known(l.path)))
	}
	l.w.happened()
}

// happened tells the executioner that something has, if he listens.
func (w *war) happened() {
	select {
	case w.step <- struct{}{}:
	default:
	}
}

// process is a server that was started, and after it its heir.
type process struct {
	l     *lane
	how   how
	cmd   *exec.Cmd
	in    *os.File
	out   *os.File
	lines *bufio.Reader
}

func (l *lane) start(h how) (*process, error) {
	s := &process{l: l, how: h, cmd: exec.Command("/proc/self/exe", l.path, string(h), l.w.run)}
	// A runtime of few threads.
	s.cmd.Env = []string{roleEnv + "=server", "GOMAXPROCS=1", "GOGC=off", "GORACE=atexit_sleep_ms=0"}
	s.cmd.Stderr = os.Stderr
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer stdout.Close()
	s.cmd.Stdin, s.cmd.Stdout = stdin, stdout
	s.in, s.out, s.lines = in, out, bufio.NewReaderSize(out, 256)
	if err := s.cmd.Start(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *process) order(order byte) { _, _ = s.in.Write([]byte{order}) }

// line is the next thing it says, or why it says nothing.
func (s *process) line() string {
	if err := s.out.SetReadDeadline(time.Now().Add(patience + patience/2)); err != nil {
		return err.Error()
	}
	line, err := s.lines.ReadString('\n')
	if err != nil {
		return "says nothing: " + err.Error()
	}
	return strings.TrimSuffix(line, "\n")
}

// expect waits for a line. When it is another one, that is an error, and the process is done with.
func (s *process) expect(want string) bool {
	line := s.line()
	if line != want {
		s.failed(line)
	}
	return line == want
}

func (s *process) failed(line string) {
	s.l.w.fail(fmt.Errorf("%s, %s: %s", s.l.path, s.how, line))
	s.kill()
}

// die has it look after its sock-file for the last time and die.
func (s *process) die() {
	s.order(die)
	if s.expect("ok") {
		s.l.w.deaths.Add(1)
		s.wait()
	}
}

func (s *process) kill() {
	_ = s.cmd.Process.Kill()
	s.wait()
}

func (s *process) wait() {
	s.in.Close() // an heir ends by that, if there is one
	_ = s.cmd.Wait()
	_, _ = io.Copy(io.Discard, s.lines)
	s.close()
}

func (s *process) close() {
	s.in.Close()
	s.out.Close()
}

// known is what the daemon knows about a path.
func (w *war) known(path string) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var owners []client.Owner
	var history []client.Event
	err := until(func() (bool, error) {
		c, err := client.Dial(ctx, filepath.Join(w.run, client.ControlName))
		if err != nil {
			return false, nil // there may be none just now
		}
		defer c.Close()
		if owners, err = c.List(ctx); err == nil {
			history, err = c.History(ctx, path)
		}
		return err == nil, nil
	})
	owners = slices.DeleteFunc(owners, func(o client.Owner) bool {
		return !slices.ContainsFunc(o.Claims, func(c client.Claim) bool { return c.Path.Path == path })
	})
	return fmt.Sprintf("owners %+v, outcomes %+v, %v", owners, history, err)
}
