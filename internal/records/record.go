package records

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// Record is an owner and its claims. Comm, names, patterns and paths may hold any bytes.
type Record struct {
	Process     pidfd.Identity // with its Inode or StartTime, and its BootID
	Comm        string
	UID         uint32       // of the process
	Claimant    *asuser.User // who has registered it; nil: it was found by the daemon itself
	Name        string
	Bindspaces  []string
	Conventions []string
	Claims      []Claim
}

// Claim is a sock-file that is claimed for the owner.
type Claim struct {
	Path   string // as the owner sees it
	Source string // the name of a watch.Source; that there is such a source is not checked here
	File   string // the text of a reap.ID; empty while the claim is pending
	Named  bool   // somebody named the path; else the file was found
	Alive  bool   // the file was seen alive
	// Root is the root directory that Path is below, for an owner whose root directory is not the daemon's; else empty. It is for
	// people to read: what it names may be another directory by now, so such a claim cannot be taken up and is only reported.
	Root string
}

var bootIDForm = lazily(`^[0-9a-f-]{36}$`)

// check says why a Record could not be read back, or would not say which process and files it is about.
func (r Record) check() error {
	switch p := r.Process; {
	case p.PID <= 0 || (p.Inode == 0) == (p.StartTime == 0):
		return fmt.Errorf("process %q: want PID:INODE or PID:tSTARTTIME", p)
	case !bootIDForm().MatchString(p.BootID):
		return fmt.Errorf("boot id %q: not a UUID", p.BootID)
	}
	for _, c := range r.Claims {
		if err := c.check(); err != nil {
			return fmt.Errorf("claim %q: %w", c.Path, err)
		}
	}
	return nil
}

func (c Claim) check() error {
	switch {
	case c.Path == "":
		return errors.New("no path")
	case strings.Contains(c.Path, "\x00"):
		return errors.New("it has a NUL")
	case c.Source == "" || !utf8.ValidString(c.Source):
		return fmt.Errorf("source %q: no name", c.Source)
	case c.File == "":
		return nil
	}
	return new(reap.ID).UnmarshalText([]byte(c.File))
}
