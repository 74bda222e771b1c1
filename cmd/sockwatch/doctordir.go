package main

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/reap"
)

// examineDir finds out what can be done about the sock-files of a directory.
func examineDir(dir string) []finding {
	place, err := reap.Examine(dir)
	if err != nil {
		f := missing("directory", oneLine(err), "nothing is known of its sock-files")
		f.essential = true
		return []finding{f}
	}
	findings := []finding{checkFilesystem(dir), checkView(place), checkHandles(place), checkRemoval(dir, place)}
	if place.Obstacle == nil {
		findings = append(findings, checkNoReplace(place))
	}
	return findings
}

func checkFilesystem(dir string) finding {
	m, err := mountOf(dir)
	if err != nil {
		return limited("filesystem", oneLine(err), "its type is not known")
	}
	return ok("filesystem", fmt.Sprintf("%s, mounted at %s", m.Type, m.Point))
}

func checkView(p reap.Place) finding {
	const check = "view"
	switch p.Blind {
	case reap.ReasonNone:
		return ok(check, "every socket that is bound here is seen")
	case reap.ReasonOverlayLayer:
		return limited(check, string(p.Blind)+": "+views[p.Blind],
			"a sweep removes nothing here without --force; what was seen alive here before is removed when it is dead")
	default:
		return missing(check, string(p.Blind)+": "+views[p.Blind],
			"a sweep removes nothing here; what was seen alive here before is removed when it is dead")
	}
}

func checkHandles(p reap.Place) finding {
	if !p.Handles {
		return limited("file-handles", "none: name_to_handle_at", "each claimed sock-file costs a descriptor, and is only reported after a restart")
	}
	return ok("file-handles", "identities last: name_to_handle_at")
}

func checkRemoval(dir string, p reap.Place) finding {
	if p.Obstacle != nil {
		return missing("removal", oneLine(p.Obstacle), "this user removes nothing here")
	}
	if sticky(dir) {
		return limited("removal", "the directory is sticky, and another user's", "this user removes only its own sock-files here")
	}
	return ok("removal", "this user may remove files here")
}

// sticky tells whether a directory is one in which we may remove nothing but our own: S_ISVTX of inode(7).
func sticky(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil || info.Mode()&fs.ModeSticky == 0 {
		return false
	}
	mayAll, err := sys.HasCapability(unix.CAP_FOWNER)
	return (err != nil || !mayAll) && int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid()
}

func checkNoReplace(p reap.Place) finding {
	const check, effect = "rename-noreplace", "a removal needs hard links, and is refused without them"
	switch {
	case p.TryErr != nil:
		return limited(check, "could not be tried: "+oneLine(p.TryErr), effect)
	case !p.NoReplace:
		return limited(check, "RENAME_NOREPLACE does not work", effect)
	}
	return ok(check, "RENAME_NOREPLACE works")
}
