package daemon

import (
	"bytes"
	"encoding/json"
)

// listingMost is how many bytes the list in a single reply may have. A reply is made in memory as a whole, for each connection that asks,
// and every name in it may be one of thousands of bytes, each written as six.
const listingMost = 1 << 20

// listing is a list that goes into a single reply.
type listing struct {
	items []json.RawMessage
	bytes int
}

// add appends an item, if there is room for it.
func (l *listing) add(v any) (added bool) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false) // as replies are written
	if err := encoder.Encode(v); err != nil || l.bytes+b.Len() > listingMost {
		return false
	}
	l.items = append(l.items, b.Bytes())
	l.bytes += b.Len()
	return true
}
