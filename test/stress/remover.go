package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// claims says how a remover comes to its claims.
type claims string

const (
	// seenAlive: made while the server lives, and removed right after its death.
	seenAlive claims = "seen alive"
	// fromName: made as soon as the name is there, maybe in the middle of the bind, and removed at once.
	fromName claims = "from name"
)

// remove claims and removes the lane's sock-files until the trial is over.
func (l *lane) remove(s strategy, how claims) error {
	var life uint64
	for w := newWait(); !l.over.Load(); {
		if how == seenAlive {
			if !l.await(&l.bound, life+1, time.Second) {
				continue
			}
			life = l.bound.Load()
		}
		c, err := s.claim(l.path)
		if errors.Is(err, fs.ErrNotExist) {
			w.pause()
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: claim: %w", s.name, err)
		}
		if how == seenAlive && !l.outlive(c, life) {
			c.close()
			continue
		}
		removed, err := c.remove()
		c.close()
		if err != nil {
			return fmt.Errorf("%s: remove: %w", s.name, err)
		}
		if removed {
			l.removals.Add(1)
			w = newWait()
		} else {
			l.kept.Add(1)
			w.pause()
		}
	}
	return nil
}

// outlive waits for the end of a life whose claim was seen alive, and a moment longer. False: it was not.
func (l *lane) outlive(c claim, life uint64) bool {
	if !c.alive() {
		return false
	}
	l.claimed.Store(life)
	if !l.await(&l.dead, life, time.Second) {
		return false
	}
	spin(10 * time.Microsecond)
	return true
}
