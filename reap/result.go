package reap

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// State is the answer of the probe: is any socket in the kernel bound to this inode.
type State int

// The answers. In doubt it is StateUnknown, and the file is kept.
const (
	StateUnknown State = iota
	StateAlive
	StateDead
)

var stateNames = [...]string{"unknown", "alive", "dead"}

// String gives the state's name, part of the JSON interface.
func (s State) String() string { return name(stateNames[:], int(s)) }

// MarshalText gives the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Outcome is what became of a sock-file that was to be removed.
type Outcome int

// The outcomes. Removed, gone, alive and replaced are as good as a removal can end; unknown, refused and failed are
// what somebody should look at.
const (
	OutcomeUnknown  Outcome = iota // could not be found out: kept
	OutcomeRemoved                 // it was dead and is gone
	OutcomeGone                    // somebody else had removed it: success
	OutcomeAlive                   // a socket is bound to it: kept
	OutcomeReplaced                // another inode has the name: kept
	OutcomeRefused                 // dead or not, it may not or cannot be removed safely: kept
	OutcomeFailed                  // the kernel failed us on the way
)

var outcomeNames = [...]string{"unknown", "removed", "gone", "alive", "replaced", "refused", "failed"}

// String gives the outcome's name, part of the JSON interface.
func (o Outcome) String() string { return name(outcomeNames[:], int(o)) }

// MarshalText gives the outcome's name.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// OK tells whether the outcome is no failure: the file is gone, or rightly kept.
func (o Outcome) OK() bool {
	switch o {
	case OutcomeRemoved, OutcomeGone, OutcomeAlive, OutcomeReplaced:
		return true
	default:
		return false
	}
}

func name(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return fmt.Sprintf("invalid(%d)", i)
	}
	return names[i]
}

// Reason says why a file was kept. The list is closed and part of the JSON interface.
type Reason string

// The reasons.
const (
	ReasonNone             Reason = ""
	ReasonHolder           Reason = "holder"             // a process that can be named has the socket open
	ReasonHolderNotVisible Reason = "holder-not-visible" // somebody has it open: queued in a message, io_uring, another user's process
	ReasonNotSocket        Reason = "not-socket"         // the name is a file of another type by now
	ReasonPermission       Reason = "permission"         // the kernel denied it to this user
	ReasonMountPoint       Reason = "mount-point"        // something is mounted on the name
	ReasonNetworkFS        Reason = "network-fs"         // NFS, 9p, virtiofs, FUSE: the socket may be another kernel's
	ReasonOverlayLayer     Reason = "overlay-layer"      // a layer of an overlay: the probe cannot see through the merged view
	ReasonReadOnly         Reason = "read-only"          // the filesystem is mounted read-only
	ReasonNoSpace          Reason = "no-space"           // the disk is too full for the rename that makes removal safe
	ReasonNoProcfs         Reason = "no-procfs"          // without /proc nothing can be probed
	ReasonHardLinked       Reason = "hard-linked"        // never seen alive and linked elsewhere: a bind there may be under way
)

// Errors that callers decide on.
var (
	// ErrNotSocket: the name is there and is not a sock-file.
	ErrNotSocket = errors.New("not a sock-file")
	// ErrRefused is wrapped by the error of a Result that is refused on sockwatch's own judgement, not on the kernel's.
	ErrRefused = errors.New("refused")
	// ErrAborted: RemoveOptions.Commit said no at the last moment; nothing was touched.
	ErrAborted = errors.New("aborted before removal")
)

// Result tells what became of one sock-file.
type Result struct {
	Path    string
	Outcome Outcome
	Reason  Reason
	Err     error // what the kernel said and at which step, when it did
	DryRun  bool  // nothing was touched: this is what would have been
	// Elsewhere: the inode may have other names in its directory, which were not looked for: see RemoveOptions.NameOnly.
	Elsewhere bool
	At        time.Time     // when the file was gone from its name, or was found to be kept
	Took      time.Duration // of the decision and the removal together, until then
}

// finish fills in what every Result says of what was begun at start.
func (r *Result) finish(f *File, start time.Time) {
	if r.At.IsZero() {
		r.At = time.Now()
	}
	r.Path, r.Took = f.path, r.Took+max(0, r.At.Sub(start))
}

// Unopened is the Result of a sock-file that Open or OpenIn gave an error for: gone, replaced by something else, or not
// to be reached.
func Unopened(path string, err error) Result {
	var r Result
	if errors.Is(err, ErrNotSocket) {
		r = Result{Outcome: OutcomeReplaced, Reason: ReasonNotSocket}
	} else {
		r = refusal("open", err)
	}
	r.Path, r.At = path, time.Now()
	return r
}

// refusal makes the Result of an error that the kernel gave at a step of a removal.
func refusal(step string, err error) Result {
	err = fmt.Errorf("%s: %w", step, err)
	outcome, reason := OutcomeRefused, ReasonNone
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return Result{Outcome: OutcomeGone}
	case errors.Is(err, unix.EBUSY):
		reason = ReasonMountPoint
	case errors.Is(err, unix.EROFS):
		reason = ReasonReadOnly
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		reason = ReasonPermission
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		reason = ReasonNoSpace
	default:
		outcome = OutcomeFailed
	}
	return Result{Outcome: outcome, Reason: reason, Err: err}
}
