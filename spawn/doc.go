// Package spawn starts children under a watch.Watcher, and kills processes for good: ask politely, wait, SIGKILL, then
// remove what they left behind, whatever happened before.
//
// A child's claimed sock-files go whatever ends it: exit, crash, a SIGKILL by anyone. What nobody told is found by
// HardKill, which looks at what the process holds before it sends any signal.
//
// What it is not for: restarting children, limiting them, or reading what they print; that is os/exec's and the caller's.
//
// Hazards. A Child must be waited for (Wait or HardKill), as an exec.Cmd must, or it stays a zombie; do not call the
// Wait of its exec.Cmd. Signals and waiting go by pidfd, so that no other process is ever hit.
//
// Linux 5.10 and newer.
package spawn
