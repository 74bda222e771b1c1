package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/daemon"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/sys"
)

func newDaemonCmd(a *app) *cobra.Command {
	var f daemonRunFlags
	cmd := &cobra.Command{
		Use:     "daemon [flags]",
		Short:   "Watch for other programs, and clean up after whoever dies",
		GroupID: groupDaemon,
		Long: `Run the service with which other programs register processes and sock-files, by
'sockwatch watch' or over its control socket: these are removed when the process
has ended, whoever dies, the registering program and the daemon included. Killed
at any moment and started again, the daemon takes up where it was.

It serves the whole machine when it is run by root, from /run/sockwatch, and its
own user otherwise, from $XDG_RUNTIME_DIR/sockwatch. It needs no configuration;
'sockwatch config --help' tells where one would be. It stays in the foreground,
logs to standard error, and tells systemd how it does where that has started it.

With --trace it sees every bind on the machine, of processes, too, that nobody
has registered. What it knows of by that alone is told of and kept, unless a
rule of the configuration says that it be removed.

SIGHUP has it read its configuration again; a bad one is told of, and the old
settings stay. SIGTERM and SIGINT end it: what it watches is kept for the next
start. A second daemon on the same directory refuses to start.`,
		Example: `  # For one's own processes
  sockwatch daemon

  # To see what it would do
  sockwatch daemon --dry-run --log-level debug`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, a) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.runtimeDir, "runtime-dir", "", "sockets and records are in `DIR`")
	flags.StringVar(&f.config, "config", "", "read the configuration from `FILE`")
	flags.BoolVar(&f.trace, "trace", false, "see every bind on the machine, by the hooks of the configuration or the best there are")
	flags.BoolVar(&f.dryRun, "dry-run", false, "remove nothing: outcomes say what would have been")
	_ = cmd.MarkFlagDirname("runtime-dir")
	_ = cmd.MarkFlagFilename("config", "toml")
	return cmd
}

type daemonRunFlags struct {
	runtimeDir, config string
	dryRun, trace      bool
}

func (f *daemonRunFlags) run(cmd *cobra.Command, a *app) (err error) {
	dir := f.runtimeDir
	if dir == "" {
		if dir, err = client.RuntimeDir(); err != nil {
			return err
		}
	}
	if dir, err = absolute(dir); err != nil {
		return fmt.Errorf("--runtime-dir: %w", err)
	}
	path, explicit := f.config, f.config != ""
	if !explicit {
		if path, err = config.DefaultPath(); err != nil {
			return err
		}
	}
	cfg, err := f.load(a, path, explicit)
	if err != nil {
		return err
	}
	log := a.log
	if !cmd.Flags().Changed("log-level") {
		log = log.Level(cfg.LogLevel)
	}
	o := daemon.Options{RuntimeDir: filepath.Clean(dir), Config: cfg, Version: readBuild().Version, Log: log}
	if o.Control, o.Notify, err = activated(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	defer signal.Stop(hup)

	d, err := daemon.New(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	served := make(chan error, 1)
	go func() { served <- d.Run(ctx) }()
	log.Info().Str("runtime_dir", o.RuntimeDir).Str("config", cfg.File).Msg("serving")
	f.tell(a, sd.SdNotifyReady+"\nSTATUS=Serving on "+filepath.Join(o.RuntimeDir, client.ControlName))

	var alive <-chan time.Time
	if every, err := sd.SdWatchdogEnabled(false); err == nil && every > 0 {
		ticker := time.NewTicker(every / 2)
		defer ticker.Stop()
		alive = ticker.C
	}
	for {
		select {
		case err := <-served:
			f.tell(a, sd.SdNotifyStopping)
			return err
		case <-alive:
			f.tell(a, sd.SdNotifyWatchdog)
		case <-hup:
			f.tell(a, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, sys.Monotonic().Microseconds()))
			if cfg, err := f.load(a, path, explicit); err != nil {
				a.complain("%s; the settings stay as they were", err)
			} else {
				d.Reload(cfg)
				log.Info().Str("config", cfg.File).Msg("the configuration was read again")
			}
			f.tell(a, sd.SdNotifyReady)
		}
	}
}

func (f *daemonRunFlags) load(a *app, path string, explicit bool) (config.Config, error) {
	cfg, err := config.Load(path, explicit)
	var wrong *config.Error
	if errors.As(err, &wrong) {
		a.complainConfig(wrong)
		err = fmt.Errorf("the configuration %s is wrong", path)
	}
	cfg.DryRun = cfg.DryRun || f.dryRun
	cfg.Trace.On = cfg.Trace.On || f.trace
	return cfg, err
}

// tell tells systemd, if it wants to know.
func (f *daemonRunFlags) tell(a *app, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		a.complain("cannot tell the service manager: %s", err)
	}
}

// activated gives the sockets that systemd has opened for us: sd_listen_fds(3).
func activated() (control *net.UnixListener, notify *net.UnixConn, err error) {
	for _, file := range activation.Files(true) {
		defer file.Close()
		switch file.Name() {
		case "control":
			l, err := net.FileListener(file)
			if err != nil {
				return nil, nil, fmt.Errorf("take over the control socket: %w", err)
			}
			unixListener, ok := l.(*net.UnixListener)
			if !ok {
				return nil, nil, errors.New("the control socket that was passed is no UNIX stream socket")
			}
			control = unixListener
		case "notify":
			c, err := net.FilePacketConn(file)
			if err != nil {
				return nil, nil, fmt.Errorf("take over the notify socket: %w", err)
			}
			unixConn, ok := c.(*net.UnixConn)
			if !ok {
				return nil, nil, errors.New("the notify socket that was passed is no UNIX datagram socket")
			}
			notify = unixConn
		default:
			return nil, nil, fmt.Errorf("a socket called %q was passed: FileDescriptorName= must be control or notify", file.Name())
		}
	}
	return control, notify, nil
}
