// Package records keeps the owners and claims of a daemon on disk, so that it can be killed at any instant and the next one
// takes up every claim: one small JSON file per owner, replaced atomically.
//
// What Put has returned for outlives the process, as process death does not lose the page cache. It is not for more than that:
// with a reboot the sockets end and the records mean nothing, so they carry the boot id, and the directory belongs on a tmpfs.
// The writes go through renameio, which cannot leave its fsync(2) out: that does nothing on a tmpfs, and on a disk Put waits for it.
//
// A Record is what was known when it was put. To take a claim up is the caller's: the process is opened by its identity, the
// file by its own, and nothing here says that either is still there.
//
// Hazards. The directory is worked in with the credentials of the calling thread: not from within a function of asuser's. Put
// writes the Record anew as a whole, so one with thousands of claims takes milliseconds.
package records
