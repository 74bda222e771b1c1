package client

import "encoding/base64"

// Exact returns the path, byte by byte.
func (p Path) Exact() string {
	if p.PathB64 == "" {
		return p.Path
	}
	b, err := base64.StdEncoding.DecodeString(p.PathB64)
	if err != nil { // the daemon does not write such; the text is the best there is
		return p.Path
	}
	return string(b)
}
