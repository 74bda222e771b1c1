// Package socktest finds the sock-files that tests leave behind dead: those of a server that was killed, that crashed, that
// called os.Exit, or that closed its socket and did not unlink the file. Nobody removes such a file later.
//
//	func TestServer(t *testing.T) {
//		socktest.VerifyNone(t)
//		...
//	}
//
// or, for all tests of a package together,
//
//	func TestMain(m *testing.M) { socktest.VerifyTestMain(m) }
//
// A leak is a sock-file that has appeared since, that is there in the end, and to which no socket is bound any more: what
// is alive is none, and what was removed in time is none. A file for which this does not hold yet has a second's time, for
// whoever is about to remove it.
//
// Packages are tested at the same time, and share $XDG_RUNTIME_DIR and the temporary directory. So only what the test
// process or a descendant of it has bound fails a test, and what is in a directory that the test process itself has made.
// What somebody else has bound is passed over in silence. Where nobody saw who it was, the file is named in the log.
//
// It looks in $XDG_RUNTIME_DIR and two levels below; in os.TempDir, and two levels below each directory that is made there
// meanwhile; and for VerifyNone in the directories of t.TempDir, which are gone only after the check. See Dir.
//
// What it is not for: sock-files that were there before (program sockwatch, reap), processes that were left behind.
//
// Hazards. VerifyNone cannot tell apart tests that run at the same time in one process (t.Parallel): use VerifyTestMain for
// those, as with goleak. A process is a descendant as long as its parents live: of a daemon, whose parent has ended, the
// files are found only in the test's own directories. So it is, unless the tests are run with CAP_SYS_ADMIN, with a child that
// binds and ends at once. A child that was killed has to be waited for before the test ends: until it is dead its socket is
// alive. A directory that is moved is lost from sight.
//
// VerifyNone keeps a goroutine and four descriptors until the cleanup of the test, and one more for each directory and each
// process of a file that it found. A goleak.VerifyNone that is deferred
// in the same test runs before that: give it goleak.IgnoreCurrent(), called after this VerifyNone.
//
// Linux 5.10 and newer; fanotify(7) without privileges, which tells exactly what the test process itself has made, is there
// from 5.13 on. Before, and on filesystems that have no file handles, what it closes at once may go unseen. Outside Linux
// nothing is looked at.
package socktest
