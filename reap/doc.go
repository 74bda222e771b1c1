// Package reap decides about one sock-file at a time, on the kernel's word alone: whether a socket is still bound to
// it, who holds that socket, and whether the file may go. It needs no daemon, no root and no eBPF.
//
// A bound AF_UNIX socket and its sock-file are two things. The file stays when the socket dies, and nothing in the
// file tells. So reap asks the kernel by a connect(2) that no server notices (see [File.Probe]), and removes only the
// very inode it asked about (see [File.Remove]).
//
// The promise above all: a sock-file that this kernel knows as alive, under the view we look through, is never
// removed. In doubt a file is kept and the [Reason] says why.
//
// What it is not for: watching processes (package watch does), deciding which files belong to whom (claims), sockets
// of other kernels behind NFS, 9p or virtiofs.
//
// Hazards. A [File] holds a descriptor of its directory, shared with all Files in it, until Close; that keeps the
// filesystem from being unmounted. Where the filesystem has no file handles a File also holds a descriptor of the
// inode. Removal renames the file to a private name (".sockwatch-" and random characters) for a moment: who watches the directory
// sees IN_MOVED_FROM, IN_MOVED_TO and IN_DELETE of that name. /proc must be mounted, else nothing is removed.
//
// A service that removes for others must not lend them its own rights: [OpenAs] and [RemoveOptions] As have the kernel decide on
// theirs.
//
// Linux 5.10 and newer.
package reap
