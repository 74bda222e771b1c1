// Package faults has the program fail and be killed at each of its steps, and looks whether the promises hold all the same: no live
// file is removed or out of reach, no claim is lost, nothing is passed over in silence.
//
// The steps are the points of package failpoint, which are there in a program that was built with the tag "failpoints" only:
//
//	go test -tags failpoints ./test/faults
//
// A scenario is played once for each point that it comes by, the first, the second and so on until one is not reached any more, and
// dies there by SIGKILL. What is left is then looked at, and the program started again without a fault. In the same way each of the
// kernel's errors is had at each point; which of them at which is thinned out, unless SOCKWATCH_FAULTS=all.
package faults
