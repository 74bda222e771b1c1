package socktest

import (
	"slices"
	"strings"
	"time"

	"github.com/sockwatch/sockwatch/reap"
)

// patience is when a file that is dead is looked at again: who kills a process may be about to remove what that has left.
var patience = append(slices.Clone(reap.Ladder[:]), 400*time.Millisecond, time.Second)

// lastRung is how long a socket can outlive its process, unless somebody else has it.
const lastRung = 200 * time.Millisecond

// finish ends watching, and describes the files that were left behind, and what else there is to know.
func (o *observer) finish() (leaks, notes []string) {
	defer o.close()
	left := o.left()
	slices.SortFunc(left, func(a, b *sighting) int { return strings.Compare(a.file.Path(), b.file.Path()) })
	notes = o.notes
	for _, s := range left {
		text := s.String()
		if blamed, _ := s.blamed(); !blamed {
			notes = append(notes, "dead, and perhaps not of these tests: "+text)
			continue
		}
		if o.config.reap {
			text += "; " + s.remove()
		}
		leaks = append(leaks, text)
	}
	return leaks, notes
}

// left are the files that are there and dead, when everybody has had the time to remove them.
func (o *observer) left() []*sighting {
	start := time.Now()
	for _, step := range o.patience {
		left, ending := o.look()
		if len(left) == 0 && (!ending || step > lastRung) {
			return nil
		}
		<-time.After(time.Until(start.Add(step)))
	}
	left, _ := o.look()
	return left
}

// look gives the files that are dead, and tells whether others may be so in a moment.
func (o *observer) look() (left []*sighting, ending bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.catchUp()
	for id, s := range o.seen {
		switch {
		case !s.present():
			delete(o.seen, id)
			s.close()
		case s.dead():
			left = append(left, s)
		case s.ending():
			ending = true
		}
	}
	return left, ending
}

// remove removes the file, and says what became of it.
func (s *sighting) remove() string {
	r := s.file.Remove(reap.RemoveOptions{})
	text := r.Outcome.String()
	if r.Reason != reap.ReasonNone {
		text += ", " + string(r.Reason)
	}
	if r.Err != nil {
		text += ": " + r.Err.Error()
	}
	return text
}
