//go:build !linux

package notify

const supported = false

func send(string, string) error { return nil }
