package socktest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/reap"
)

// observer sees sock-files being made, and looks at once who made them. It has one goroutine, since who binds may be gone
// by the end of the test.
type observer struct {
	config   config
	patience []time.Duration
	since    time.Time // on the clock of files
	epfd     int
	stop     int // eventfd
	loop     sync.WaitGroup

	mu     sync.Mutex
	source *source
	seen   map[reap.ID]*sighting
	notes  []string
}

// levels below a directory that are watched.
const levels = 2

const (
	tokenStop uint64 = iota
	tokenSource
)

func observe(c config) (_ *observer, err error) {
	if ok, err := sys.OnProcfs(); err != nil || !ok {
		return nil, errors.Join(errors.New("/proc is not there"), err)
	}
	o := &observer{config: c, patience: patience, since: sys.FileTime(), epfd: -1, stop: -1, seen: map[reap.ID]*sighting{}}
	if o.source, err = newSource(c.inotifyOnly); err != nil {
		return nil, err
	}
	if err := o.open(); err != nil {
		o.close()
		return nil, err
	}
	o.loop.Go(o.run)
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, dir := range c.dirs {
		o.watchWith(dir, levels, true)
	}
	if len(c.dirs) == 0 {
		if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
			o.watchWith(dir, levels, true)
		}
		// It is everybody's, and can hold anything: what is in it already is not looked at.
		if dir, err := filepath.Abs(os.TempDir()); err == nil {
			o.watchWith(dir, levels, false)
		}
	}
	return o, nil
}

func (o *observer) open() (err error) {
	if o.epfd, err = sys.EpollCreate(); err != nil {
		return err
	}
	if o.stop, err = sys.Eventfd(); err != nil {
		return err
	}
	if err := sys.EpollAdd(o.epfd, o.stop, unix.EPOLLIN, tokenStop); err != nil {
		return err
	}
	for _, fd := range o.source.fds() {
		if err := sys.EpollAdd(o.epfd, fd, unix.EPOLLIN, tokenSource); err != nil {
			return err
		}
	}
	return nil
}

// close ends the goroutine and gives up every descriptor.
func (o *observer) close() {
	if o.stop >= 0 {
		_ = sys.EventfdSet(o.stop)
	}
	o.loop.Wait()
	for _, s := range o.seen {
		s.close()
	}
	for _, fd := range []int{o.epfd, o.stop} {
		if fd >= 0 {
			_ = sys.Close(fd)
		}
	}
	o.source.close()
}

func (o *observer) run() {
	var epoll sys.Epoll
	for stopped := false; !stopped; {
		err := epoll.Wait(o.epfd, -1, func(e sys.EpollEvent) { stopped = stopped || e.Token == tokenStop })
		if err != nil {
			return
		}
		if !stopped {
			o.mu.Lock()
			o.catchUp()
			o.mu.Unlock()
		}
	}
}

// watchOwn watches a directory of the test's own, as it is by now.
func (o *observer) watchOwn(dir string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.catchUp()
	o.watch(dir, levels, true, presentBefore)
}

// watchWith watches one that may be anybody's, and, if present says so, the directories that are in it. The caller holds o.mu.
func (o *observer) watchWith(dir string, below int, present bool) {
	if d, err := o.source.watch(dir, below, false); err != nil {
		o.trouble(dir, err)
		return
	} else if d == nil || !present || below == 0 {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		o.trouble(dir, err)
	}
	for _, e := range entries {
		if e.IsDir() {
			o.watchWith(filepath.Join(dir, e.Name()), below-1, true)
		}
	}
}

// watch watches a directory, and takes what was made in it before it was watched for new as far as it can be. The caller
// holds o.mu.
func (o *observer) watch(dir string, below int, own bool, p presence) {
	d, err := o.source.watch(dir, below, own)
	if err != nil {
		o.trouble(dir, err)
	} else if d != nil {
		o.list(d, p)
	}
}

// presence is how it is known that a file is there. The clock of files is coarse: one that was made in the tick in which
// the observer began can be older than that.
type presence int

const (
	presentNew    presence = iota // it has appeared, or its directory has
	presentBefore                 // it may have been there before
)

// trouble notes that a directory is not watched. Those that others keep to themselves, or have removed again, are not ours.
func (o *observer) trouble(dir string, err error) {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return
	}
	if len(o.notes) == 0 {
		o.notes = append(o.notes, "not watched: "+printable(dir)+": "+err.Error())
	}
}

// list takes what is in a directory for new, as far as it is. The caller holds o.mu.
func (o *observer) list(d *directory, p presence) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		o.trouble(d.path, err)
	}
	for _, e := range entries {
		switch e.Type() {
		case fs.ModeDir:
			if d.below > 0 {
				o.watch(filepath.Join(d.path, e.Name()), d.below-1, d.own, p)
			}
		case fs.ModeSocket:
			o.file(entry{dir: d, name: e.Name()}, p)
		default:
		}
	}
}

// catchUp answers all that has happened until now. The caller holds o.mu.
func (o *observer) catchUp() {
	for {
		entries, lost, err := o.source.read()
		if err != nil {
			o.trouble("all directories", err)
		}
		for _, e := range entries {
			if !e.isDir {
				o.file(e, presentNew)
			} else if e.dir.below > 0 {
				o.watch(filepath.Join(e.dir.path, e.name), e.dir.below-1, e.dir.own || e.maker == os.Getpid(), presentNew)
			}
		}
		if lost {
			for _, d := range o.source.all() {
				o.list(d, presentBefore)
			}
		}
		// Directories may have been watched just now.
		if err != nil || len(entries) == 0 && !lost {
			return
		}
	}
}

// file looks at a sock-file that has appeared, if it is one. The caller holds o.mu.
func (o *observer) file(e entry, p presence) {
	path := filepath.Join(e.dir.path, e.name)
	if reap.IsPrivate(e.name) || o.config.ignores(path) {
		return
	}
	f, err := reap.Open(path)
	if err != nil { // it is gone, or no sock-file
		return
	}
	if known := o.seen[f.ID()]; known != nil { // it was renamed, or linked
		if known.present() {
			_ = f.Close()
		} else {
			_ = known.file.Close()
			known.file = f
		}
		return
	}
	born, err := f.Born()
	before := err == nil && born.Before(o.since) // under another name, if it has appeared
	if p == presentBefore {
		before = err != nil || !born.After(o.since)
	}
	if before {
		_ = f.Close()
		return
	}
	s := &sighting{file: f, secluded: e.dir.own}
	s.findBinder(e.maker)
	if blamed, unsure := s.blamed(); !blamed && !unsure {
		s.close()
		return
	}
	o.seen[f.ID()] = s
}
