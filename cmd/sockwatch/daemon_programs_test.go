package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

// program is a server that nobody here wrote.
type program struct {
	name    string
	workers int               // that hold the listener, too
	files   map[string]string // DIR in them is the directory
	args    string            // DIR/s is the sock-file
	renames bool              // it binds another name, and renames the file
}

var programs = []program{
	{name: "redis-server", args: "--port 0 --unixsocket DIR/s --dir DIR --save "},
	{
		name: "dbus-daemon", args: "--nofork --nopidfile --config-file=DIR/bus.conf --address=unix:path=DIR/s",
		files: map[string]string{"bus.conf": `<busconfig>
  <type>session</type>
  <listen>unix:path=unused</listen>
  <policy context="default"><allow send_destination="*"/></policy>
</busconfig>
`},
	},
	{
		name: "nginx", workers: 2, args: "-e stderr -c DIR/nginx.conf",
		files: map[string]string{"nginx.conf": `daemon off;
worker_processes 2;
pid DIR/pid;
events {}
http {
	access_log off;
	client_body_temp_path DIR/temp;
	proxy_temp_path DIR/temp;
	fastcgi_temp_path DIR/temp;
	uwsgi_temp_path DIR/temp;
	scgi_temp_path DIR/temp;
	server { listen unix:DIR/s; }
}
`},
	},
	{
		name: "php-fpm8.2", workers: 2, args: "--nodaemonize --fpm-config DIR/php-fpm.conf --allow-to-run-as-root",
		files: map[string]string{"php-fpm.conf": `[global]
error_log = DIR/log
[www]
user = nobody
listen = DIR/s
pm = static
pm.max_children = 2
`},
	},
	{
		name: "gunicorn", workers: 2, args: "--workers 2 --timeout 0 --log-level critical --chdir DIR --worker-tmp-dir DIR --bind unix:DIR/s app:app",
		files: map[string]string{"app.py": `def app(environ, start_response):
    start_response("200 OK", [])
    return []
`},
	},
}

// onPrograms runs a test with each program, and a daemon that was told to watch it by the number of its master.
func onPrograms(t *testing.T, workers bool, test func(t *testing.T, d *reborn, s *served)) {
	for _, p := range programs {
		if workers && p.workers == 0 {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			testutil.Require(t, testutil.Program(p.name))
			d := newReborn(t, "")
			// Inode numbers are given out again here.
			s := p.serve(t, testutil.Dir(t, testutil.Ext4))
			d.watch(s.master.PID())
			test(t, d, s)
		})
	}
}

// served is a program that serves.
type served struct {
	t       *testing.T
	program program
	dir     string
	path    string
	master  *testutil.Child
	workers []*pidfd.Process
}

func (p program) serve(t *testing.T, dir string) *served {
	t.Helper()
	s := &served{t: t, program: p, dir: dir}
	s.path = filepath.Join(s.dir, "s")
	for name, text := range p.files {
		must(t, os.WriteFile(filepath.Join(s.dir, name), []byte(strings.ReplaceAll(text, "DIR", s.dir)), 0o600))
	}
	cmd := exec.Command(p.name, strings.Split(strings.ReplaceAll(p.args, "DIR", s.dir), " ")...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8") // tmux wants it
	log, err := os.Create(filepath.Join(s.dir, "stderr"))
	must(t, err)
	defer log.Close()
	cmd.Stderr = log
	s.master = testutil.Start(t, cmd)
	master, err := pidfd.FromProcess(cmd.Process)
	must(t, err)
	defer master.Close()
	for deadline := time.Now().Add(forever); !answers(s.path) || len(children(cmd.Process.Pid)) < p.workers; {
		if exited, err := master.Exited(); exited || err != nil || time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("%q does not come up: %v\n%s", cmd.Args, err, said)
		}
	}
	for _, pid := range children(cmd.Process.Pid)[:p.workers] {
		worker, err := pidfd.Open(pid)
		must(t, err)
		t.Cleanup(func() {
			_ = worker.Signal(unix.SIGKILL)
			_ = worker.Close()
		})
		must(t, worker.Signal(unix.SIGSTOP)) // gunicorn's end when they miss their master
		s.workers = append(s.workers, worker)
	}
	return s
}

func children(pid int) (pids []int) {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(pid) + "/children")
	for _, field := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killMaster does so, and reaps him.
func (s *served) killMaster() {
	s.t.Helper()
	s.master.Kill()
}

// killWorkers does so, and waits for their end.
func (s *served) killWorkers() {
	s.t.Helper()
	for _, w := range s.workers {
		if err := w.Signal(unix.SIGKILL); err != nil && !errors.Is(err, pidfd.ErrExited) {
			s.t.Fatal(err)
		}
		must(s.t, w.Wait(s.t.Context()))
	}
}

// TestDaemonPrograms: the master is killed, and the file is kept for as long as workers hold the socket.
func TestDaemonPrograms(t *testing.T) {
	onPrograms(t, false, func(_ *testing.T, d *reborn, s *served) {
		s.killMaster()
		if len(s.workers) > 0 {
			d.held(s.path)
			s.killWorkers()
		}
		d.gone(s.path)
		d.idle()
	})
}

// TestDaemonProgramsDieMeanwhile: while there is no daemon.
func TestDaemonProgramsDieMeanwhile(t *testing.T) {
	onPrograms(t, false, func(t *testing.T, d *reborn, s *served) {
		d.kill()
		s.killMaster()
		s.killWorkers()
		if !there(t, s.path) {
			t.Fatal("the program has removed its file itself")
		}
		d.start()
		d.gone(s.path)
		d.idle()
	})
}

// TestDaemonProgramsReplaced: while there is no daemon all die, and another server binds a socket whose file has the inode number of theirs.
func TestDaemonProgramsReplaced(t *testing.T) {
	for name, path := range map[string]string{"same path": "s", "another path": "other"} {
		t.Run(name, func(t *testing.T) {
			onPrograms(t, false, func(t *testing.T, d *reborn, s *served) {
				path := filepath.Join(s.dir, path)
				for n := 0; ; n++ {
					d.kill()
					s.killMaster()
					s.killWorkers()
					before := inode(t, s.path)
					takeLower(t, s.dir, before)
					must(t, os.Remove(s.path))
					rebound(t, path)
					if inode(t, path) == before {
						break
					}
					// Somebody else on this filesystem was quicker, and keeps it: once more.
					if n == 20 {
						t.Fatalf("the inode number %d was not given out again, nor others before", before)
					}
					must(t, os.Remove(path))
					d.start()
					d.idle()
					s = s.program.serve(t, testutil.Dir(t, testutil.Ext4))
					path = filepath.Join(s.dir, filepath.Base(path))
					d.watch(s.master.PID())
				}
				d.start()
				d.idle()
				if !answers(path) {
					t.Error("a live server's file was removed")
				}
			})
		})
	}
}

// takeLower makes files in a directory until all inode numbers below one are taken. Those that are free are given out in their order.
func takeLower(t *testing.T, dir string, inodeNumber uint64) {
	t.Helper()
	const most = 50_000
	for n := range most {
		path := filepath.Join(dir, "filler-"+strconv.Itoa(n))
		must(t, unix.Mknod(path, unix.S_IFREG|0o600, 0))
		if inode(t, path) > inodeNumber {
			return
		}
	}
}

// TestDaemonProgramsHandedOn: what was handed on to the workers is theirs also after a restart, wherever the daemon was killed.
func TestDaemonProgramsHandedOn(t *testing.T) {
	for name, restart := range map[string]func(d *reborn, s *served){
		"killed after": func(d *reborn, s *served) {
			s.killMaster()
			d.held(s.path)
			d.kill()
			d.start()
			d.held(s.path)
		},
		"killed before": func(d *reborn, s *served) {
			d.kill()
			s.killMaster()
			d.start()
			d.held(s.path)
		},
		"workers die meanwhile": func(d *reborn, s *served) {
			s.killMaster()
			d.held(s.path)
			d.kill()
			s.killWorkers()
			d.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			onPrograms(t, true, func(_ *testing.T, d *reborn, s *served) {
				restart(d, s)
				s.killWorkers()
				d.gone(s.path)
				d.idle()
			})
		})
	}
}
