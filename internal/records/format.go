package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/pidfd"
)

// version is that of the format. A reader ignores fields that it does not know, so that a daemon older than the one before it
// still takes up the claims: losing them is worse than not knowing something about them. What must not be ignored needs
// another version, which is for whoever reads it a damaged record.
const version = 1

// maxSize is the most bytes that a record may have.
const maxSize = 1 << 20

// ErrTooLarge says that a Record would have more than 1 MiB, which is some thousand claims.
var ErrTooLarge = errors.New("record of more than 1 MiB")

// document is a record's file.
type document struct {
	Version     int       `json:"version"`
	ID          string    `json:"id"`
	Process     string    `json:"process"`
	Boot        string    `json:"boot"`
	Comm        text      `json:"comm,omitempty"`
	UID         uint32    `json:"uid"`
	Claimant    *claimant `json:"claimant,omitempty"`
	Name        text      `json:"name,omitempty"`
	Bindspaces  []text    `json:"bindspaces,omitempty"`
	Conventions []text    `json:"conventions,omitempty"`
	Claims      []claim   `json:"claims,omitempty"`
}

type claimant struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

type claim struct {
	// Path has its bytes in PathB64 instead where it is not UTF-8. There can be thousands, and with a text for each Put takes
	// twice as long.
	Path    string `json:"path,omitempty"`
	PathB64 []byte `json:"path_b64,omitempty"`
	Source  string `json:"source"`
	File    string `json:"file,omitempty"`
	Named   bool   `json:"named,omitempty"`
	Alive   bool   `json:"alive,omitempty"`
	Root    text   `json:"root,omitempty"`
}

// text is a string of any bytes: in JSON a string, or {"b64": "..."} where it is not UTF-8.
type text string

type binary struct {
	B64 []byte `json:"b64"`
}

// MarshalJSON keeps what encoding/json would replace.
func (t text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(binary{[]byte(t)})
}

// UnmarshalJSON reads either form.
func (t *text) UnmarshalJSON(b []byte) error {
	if b[0] != '{' {
		return json.Unmarshal(b, (*string)(t))
	}
	var d binary
	err := json.Unmarshal(b, &d)
	*t = text(d.B64)
	return err
}

func encode(id string, r Record) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	d := document{
		Version: version, ID: id, Process: r.Process.String(), Boot: r.Process.BootID, Comm: text(r.Comm), UID: r.UID,
		Name: text(r.Name), Bindspaces: convert[text](r.Bindspaces), Conventions: convert[text](r.Conventions),
		Claims: make([]claim, len(r.Claims)),
	}
	if u := r.Claimant; u != nil {
		d.Claimant = &claimant{u.UID, u.GID, u.Groups}
	}
	for i, c := range r.Claims {
		d.Claims[i] = claim{Path: c.Path, Source: c.Source, File: c.File, Named: c.Named, Alive: c.Alive, Root: text(c.Root)}
		if !utf8.ValidString(c.Path) {
			d.Claims[i].Path, d.Claims[i].PathB64 = "", []byte(c.Path)
		}
	}
	b, err := json.Marshal(d)
	if err == nil && len(b) > maxSize {
		err = ErrTooLarge
	}
	return b, err
}

// decode reads what encode wrote.
func decode(b []byte) (id string, r Record, err error) {
	switch {
	case len(b) > maxSize:
		return "", Record{}, ErrTooLarge
	case !utf8.Valid(b): // encoding/json would replace it, and the path would be another
		return "", Record{}, errors.New("not UTF-8")
	}
	// The rest of another version's may be anything.
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return "", Record{}, err
	}
	if v.Version != version {
		return "", Record{}, fmt.Errorf("version %d, known is %d", v.Version, version)
	}
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return "", Record{}, err
	}
	process, err := pidfd.ParseIdentity(d.Process)
	if err != nil {
		return "", Record{}, err
	}
	process.BootID = d.Boot
	r = Record{
		Process: process, Comm: string(d.Comm), UID: d.UID, Name: string(d.Name),
		Bindspaces: convert[string](d.Bindspaces), Conventions: convert[string](d.Conventions),
	}
	if u := d.Claimant; u != nil {
		r.Claimant = &asuser.User{UID: u.UID, GID: u.GID, Groups: u.Groups}
	}
	for _, c := range d.Claims {
		if c.PathB64 != nil {
			c.Path = string(c.PathB64)
		}
		r.Claims = append(r.Claims, Claim{c.Path, c.Source, c.File, c.Named, c.Alive, string(c.Root)})
	}
	return d.ID, r, r.check()
}

func convert[To, From ~string](from []From) []To {
	var to []To
	for _, s := range from {
		to = append(to, To(s))
	}
	return to
}
