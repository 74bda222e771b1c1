package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/reap"
)

func newLsCmd(a *app) *cobra.Command {
	l := lister{app: a}
	var daemon daemonFlags
	cmd := &cobra.Command{
		Use:        "ls [flags] [DIR]...",
		Short:      "List sock-files: alive or dead, and who holds them",
		SuggestFor: []string{"list", "ps"},
		GroupID:    groupFiles,
		Long: `List the sock-files in the directories, without changing anything: no server
notices. Without DIR it is $XDG_RUNTIME_DIR, and /run for root.

    STATE    alive: a socket is bound to it. dead: none is, and none ever will
             be again. unknown: REASON says why that could not be found out
    REASON   why the state is unknown (permission, network-fs, overlay-layer,
             hard-linked, read-only, no-procfs); or holder-not-visible: it is
             alive, and no process that you may look at has the socket open
    TYPE     of the socket: stream, dgram or seqpacket
    AGE      since the file was made or last changed
    HOLDERS  the processes that have the socket open, and their users
    OWNERS   the processes that a sockwatch daemon watches and has claimed the
             file for: it goes with them. The column is there if a daemon is

The files of a directory are sorted by path. With --json each is an object with
path, state, reason, type, holders (pid, comm, uid, user), dev, inode, age_s
(seconds) and owners (process, pid, comm, uid, source, ended, exit).

What cannot be read is told on standard error, and the exit status is 1 then. A
dead or unknown file is no failure.`,
		Example: `  # What is there, and who holds it?
  sockwatch ls

  # Everything that nobody will ever use again, below /run and /tmp
  sudo sockwatch ls -r --dead /run /tmp

  # The paths of those that are older than a day
  sockwatch ls --dead --json /tmp | jq -r 'select(.age_s > 86400).path'`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				dir, err := defaultDir()
				if err != nil {
					return err
				}
				args = []string{dir}
			}
			l.owners = daemon.fileOwners(cmd.Context(), a)
			return l.list(cmd.Context(), args)
		},
		ValidArgsFunction: completeDirs,
	}
	cmd.Flags().BoolVarP(&l.recursive, "recursive", "r", false, "list the directories below, too; symlinks are not followed")
	cmd.Flags().BoolVar(&l.dead, "dead", false, "list only dead ones")
	daemon.register(cmd)
	jsonFlag(cmd, &l.asJSON)
	return cmd
}

// defaultDir is the directory to look into where none is given.
func defaultDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/run", nil
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return dir, nil
	}
	return "", usagef("no directory given, and XDG_RUNTIME_DIR is not set")
}

// lister lists sock-files. It keeps those of whole directories until there are enough of them to sort and print, and Files open
// until there are enough for a search for holders.
type lister struct {
	app                     *app
	owners                  fileOwners
	recursive, dead, asJSON bool

	files  []*sockFile
	open   []*sockFile // of them, those that may have holders
	failed bool
}

const (
	listBatch   = 4096 // sock-files; a directory that has more is a batch of its own
	holderBatch = 256  // each may hold two descriptors
)

func (l *lister) list(ctx context.Context, dirs []string) error {
	defer l.release()
	walk := reap.List
	if l.recursive {
		walk = reap.Walk
	}
	last := ""
	for _, dir := range dirs {
		for f, err := range walk(dir) {
			if err != nil {
				l.fail(explainNotDir(err))
				continue
			}
			if d := filepath.Dir(f.Path()); d != last {
				if last = d; len(l.files) >= listBatch {
					l.print(ctx)
				}
			}
			l.add(ctx, f)
			if l.app.stdout.failed() != nil {
				return nil // nobody would learn of the rest
			}
		}
	}
	l.print(ctx)
	if l.failed {
		return exitWith(statusFailed, nil)
	}
	return nil
}

func (l *lister) fail(err error) {
	l.failed = true
	l.app.complain("%s", err)
}

func explainNotDir(err error) error {
	if errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%w; about one sock-file 'sockwatch explain' tells", err)
	}
	return err
}

// add takes the File over.
func (l *lister) add(ctx context.Context, f *reap.File) {
	s, err := look(f)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.fail(err)
	}
	if err != nil || (l.dead && s.State != reap.StateDead) {
		_ = f.Close()
		return
	}
	s.Owners = l.owners.of(f.Path())
	l.files = append(l.files, s)
	if s.State == reap.StateDead {
		_ = f.Close()
		return
	}
	l.open = append(l.open, s)
	if len(l.open) >= holderBatch {
		l.find(ctx)
	}
}

// find finds the holders of what is open, and closes it.
func (l *lister) find(ctx context.Context) {
	if err := findHolders(ctx, l.open); err != nil {
		l.fail(err)
	}
	l.release()
}

func (l *lister) release() {
	for _, s := range l.open {
		_ = s.file.Close()
	}
	l.open = l.open[:0]
}

func (l *lister) print(ctx context.Context) {
	l.find(ctx)
	slices.SortStableFunc(l.files, func(a, b *sockFile) int { return cmp.Compare(a.file.Path(), b.file.Path()) })
	if l.asJSON {
		for _, s := range l.files {
			l.app.stdout.object(s)
		}
	} else if len(l.files) > 0 {
		headers := []string{"STATE", "REASON", "TYPE", "AGE", "HOLDERS", "PATH"}
		if l.owners != nil {
			headers = slices.Insert(headers, len(headers)-1, "OWNERS")
		}
		t := l.app.stdout.table(headers...)
		for _, s := range l.files {
			row := []string{s.State.String(), string(s.Reason), s.Type, s.age(), s.holders(), s.file.Path()}
			if l.owners != nil {
				row = slices.Insert(row, len(row)-1, s.owners())
			}
			t.row(row...)
		}
		t.flush()
	}
	l.files = nil
}

// sockFile is what there is to say about a sock-file, and an object of the JSON interface.
type sockFile struct {
	file *reap.File
	mode fs.FileMode
	stat *syscall.Stat_t

	jsonPath
	State   reap.State  `json:"state"`
	Reason  reap.Reason `json:"reason,omitempty"` // why it is unknown, or holder-not-visible
	Type    string      `json:"type"`             // "" where it is not known
	Holders []holder    `json:"holders"`
	Dev     uint64      `json:"dev"`
	Inode   uint64      `json:"inode"`
	AgeS    float64     `json:"age_s"`
	Owners  []fileOwner `json:"owners,omitempty"` // that the daemon knows
}

// holder is a process that has the socket of a sock-file open.
type holder struct {
	PID  int    `json:"pid"`
	Comm string `json:"comm"`
	UID  uint32 `json:"uid"`
	User string `json:"user,omitempty"` // the name, where there is one
}

// look looks at a sock-file, apart from its type and its holders. It is fs.ErrNotExist, too, where another file has the name.
func look(f *reap.File) (*sockFile, error) {
	s := &sockFile{file: f, jsonPath: newJSONPath(f.Path()), Holders: []holder{}, Dev: f.ID().Dev(), Inode: f.ID().Inode()}
	s.State, s.Reason = f.Probe()
	info, err := os.Lstat(f.Path())
	if err != nil {
		return nil, err
	}
	s.mode, s.stat = info.Mode(), info.Sys().(*syscall.Stat_t)
	if uint64(s.stat.Dev) != s.Dev || s.stat.Ino != s.Inode { //nolint:unconvert // the type differs by architecture
		return nil, &os.PathError{Op: "look at", Path: f.Path(), Err: fmt.Errorf("%w: another file has its name", fs.ErrNotExist)}
	}
	// The time that nobody can set, and that --min-age of reap goes by.
	age := time.Since(time.Unix(s.stat.Ctim.Unix()))
	s.AgeS = age.Round(time.Millisecond).Seconds()
	return s, nil
}

// findHolders finds the types and the holders of sock-files, by one search.
func findHolders(ctx context.Context, all []*sockFile) error {
	files := make([]*reap.File, len(all))
	for i, s := range all {
		files[i] = s.file
	}
	types, err := reap.SocketTypes(files)
	if err != nil {
		return err
	}
	holders, err := reap.HoldersOf(ctx, files)
	if err != nil {
		return err
	}
	for i, s := range all {
		s.Type = socketTypes[types[i]]
		for _, h := range holders[i] {
			s.Holders = append(s.Holders, holder{h.PID, h.Comm, h.UID, userName(h.UID)})
		}
		if s.State != reap.StateAlive || len(s.Holders) > 0 {
			continue
		}
		if s.State, s.Reason = s.file.Probe(); s.State == reap.StateAlive { // it did not die meanwhile
			s.Reason = reap.ReasonHolderNotVisible
		}
	}
	return nil
}

var socketTypes = map[int]string{unix.SOCK_STREAM: "stream", unix.SOCK_DGRAM: "dgram", unix.SOCK_SEQPACKET: "seqpacket"}

// userNames are those that were looked up.
var userNames = map[uint32]string{}

// userName gives the name of a user, "" where there is none.
func userName(uid uint32) string {
	name, ok := userNames[uid]
	if !ok {
		if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			name = u.Username
		}
		userNames[uid] = name
	}
	return name
}

// userOr is userName, or the number.
func userOr(uid uint32) string {
	return cmp.Or(userName(uid), strconv.FormatUint(uint64(uid), 10))
}

// age gives the age in its largest unit.
func (s *sockFile) age() string {
	const day = 24 * 60 * 60
	n := max(0, int64(s.AgeS))
	switch {
	case n < 60:
		return fmt.Sprintf("%ds", n)
	case n < 60*60:
		return fmt.Sprintf("%dm", n/60)
	case n < day:
		return fmt.Sprintf("%dh", n/60/60)
	default:
		return fmt.Sprintf("%dd", n/day)
	}
}

func (s *sockFile) holders() string {
	return someOf(s.Holders, func(h holder) string { return fmt.Sprintf("%d %s (%s)", h.PID, h.Comm, userOr(h.UID)) })
}

func (s *sockFile) owners() string {
	return someOf(s.Owners, func(o fileOwner) string { return processAndComm(o.Process, o.Comm) })
}

// someOf lists as many processes as a line has room for.
func someOf[T any](processes []T, name func(T) string) string {
	const room = 3
	var b strings.Builder
	for i, p := range processes {
		if i == room {
			fmt.Fprintf(&b, " and %d more", len(processes)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(name(p))
	}
	return b.String()
}
