//go:build !failpoints

package failpoint

// Built tells whether points can be hit.
const Built = false

// Hit does nothing and is compiled away.
func Hit(string) error { return nil }
