package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/sockwatch/sockwatch/client"
)

// fileOwner is a process that the daemon has a claim of a sock-file for, in the JSON interface.
type fileOwner struct {
	Process string `json:"process"` // PID:INODE
	PID     int    `json:"pid"`
	Comm    string `json:"comm,omitempty"`
	UID     uint32 `json:"uid"`
	Source  string `json:"source"`
	Ended   bool   `json:"ended"`
	Exit    string `json:"exit,omitempty"`
}

// fileOwners are who the daemon has claims for, by path. nil where there is no daemon, or it does not answer.
type fileOwners map[string][]fileOwner

// fileOwners asks the daemon.
func (f *daemonFlags) fileOwners(ctx context.Context, a *app) fileOwners {
	var known fileOwners
	f.ask(ctx, a, func(ctx context.Context, d *client.Client) (err error) {
		known, err = listFileOwners(ctx, d)
		return err
	})
	return known
}

func listFileOwners(ctx context.Context, d *client.Client) (fileOwners, error) {
	owners, err := d.List(ctx)
	if err != nil {
		return nil, err
	}
	known := fileOwners{}
	for _, o := range owners {
		for _, c := range o.Claims {
			path := filepath.Clean(c.Exact())
			known[path] = append(known[path], fileOwner{o.Process, o.PID, o.Comm, o.UID, c.Source, o.Ended, o.Exit})
		}
	}
	return known, nil
}

// of gives those who have a claim of the file at path.
func (k fileOwners) of(path string) []fileOwner {
	if len(k) == 0 {
		return nil
	}
	for _, name := range namesOf(path) {
		if owners := k[name]; owners != nil {
			return owners
		}
	}
	return nil
}

// namesOf gives the names that a file may have been claimed by: as it is given, made absolute, and that with its directory's
// symbolic links resolved. Those of a claim are not: it may lead into a filesystem that does not answer.
func namesOf(path string) []string {
	abs, err := absolute(path)
	if err != nil {
		return nil
	}
	given := filepath.Clean(abs)
	slash := strings.LastIndexByte(abs, '/')
	dir, err := filepath.EvalSymlinks(abs[:slash+1])
	if err != nil {
		return []string{given}
	}
	resolved := filepath.Join(dir, abs[slash+1:])
	if given == resolved || strings.Contains(abs, "/../") { // after a link that is not what Clean takes it for
		return []string{resolved}
	}
	return []string{given, resolved}
}

// knowledge is what the daemon knows of a path, and an object of the JSON interface where there is no such file.
type knowledge struct {
	jsonPath
	Owners  []fileOwner    `json:"owners,omitempty"`
	History []client.Event `json:"history,omitempty"` // what became of files of that name, the oldest first
}

// knowledge asks the daemon.
func (f *daemonFlags) knowledge(ctx context.Context, a *app, path string) knowledge {
	k := knowledge{jsonPath: newJSONPath(path)}
	f.ask(ctx, a, func(ctx context.Context, d *client.Client) error {
		owners, err := listFileOwners(ctx, d)
		if err != nil {
			return err
		}
		k.Owners = owners.of(path)
		for _, name := range namesOf(path) {
			if !utf8.ValidString(name) { // of which it cannot be asked
				continue
			}
			events, err := d.History(ctx, name)
			if err != nil {
				return err
			}
			if len(events) > 0 {
				k.History = events
			}
		}
		return nil
	})
	return k
}

// shownHistory is how many outcomes are printed: a server may be started anew many times.
const shownHistory = 5

func (k knowledge) print(o *output) {
	for _, owner := range k.Owners {
		ended := ""
		if owner.Ended {
			ended = "; it has ended"
			if owner.Exit != "" {
				ended += ", " + owner.Exit
			}
		}
		o.line("owner", "process %s, of user %s, claimed by %s%s",
			processAndComm(owner.Process, owner.Comm), userOr(owner.UID), owner.Source, errors.New(ended))
	}
	if more := len(k.History) - shownHistory; more > 0 {
		o.line("history", "%d earlier outcomes, which --json has", more)
	}
	for _, e := range k.History[max(0, len(k.History)-shownHistory):] {
		o.printf("%-9s", errors.New("history"))
		o.printEvent(e)
	}
}
