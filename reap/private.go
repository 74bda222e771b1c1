package reap

import (
	"encoding/base32"
	"encoding/binary"
	"math/rand/v2"
	"strings"
)

// privatePrefix begins the names under which a file is for the moment of its removal.
const privatePrefix = ".sockwatch-"

const (
	privateShortest = 16 // bytes: enough random ones to find a free name at once
	privateLongest  = len(privatePrefix) + 26
)

// privateName makes a name to rename the entry called name to. It is no longer than that one, from 16 bytes on: on a full
// disk a longer name can fail with ENOSPC where unlink(2) would work.
func privateName(name string) string {
	return absentName()[:min(max(len(name), privateShortest), privateLongest)]
}

// absentName makes a name that no entry has: 128 random bits.
//
// They are the runtime's, which the kernel seeded. The first use of crypto/rand arms a timer, for which the runtime may
// have to make descriptors; at the limit it cannot, and ends the process.
func absentName() string {
	var bits [16]byte
	binary.NativeEndian.PutUint64(bits[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(bits[8:], rand.Uint64())
	name := append(make([]byte, 0, privateLongest), privatePrefix...)
	return string(unpadded.AppendEncode(name, bits[:]))
}

var unpadded = base32.StdEncoding.WithPadding(base32.NoPadding)

// IsPrivate tells whether a base name is one that a removal uses for a moment. Listings leave such names out.
func IsPrivate(base string) bool { return strings.HasPrefix(base, privatePrefix) }
