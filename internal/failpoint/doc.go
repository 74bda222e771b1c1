// Package failpoint lets a step of the program fail, or kill the process, where a test says so. It is built in with the tag
// "failpoints" only, for the tests below test/faults; without it a point is an empty function that is compiled away.
//
// A point is named for what comes next: the system call, or the step of a greater whole ("record/rename"). It is hit before that. Where it
// gives an error, what comes next is not done, and that is the error of it.
//
// What is to happen is said by the environment variable SOCKWATCH_FAILPOINTS, read once: rules separated by commas.
//
//	unlinkat=EIO        each unlinkat(2) fails with EIO, and is not made
//	unlinkat:2=ENOSPC   the second one does
//	*:17=kill           the seventeenth point of all kills the process by SIGKILL
//	renameat2:1=stop    the process stops itself there by SIGSTOP, and goes on with SIGCONT
//
// A rule with a number counts what its name matches, from 1. Of several that are due at a point the first is followed; after a stop, the
// next one, too. What happens is told on stderr, a line each:
//
//	failpoint: 17 unlinkat: kill
//
// in which the number counts all points. A rule that cannot be read ends the process, with exit code 2.
package failpoint
