package sys

import (
	"time"

	"golang.org/x/sys/unix"
)

// Tick is how finely /proc tells times: USER_HZ is 100 on every architecture that Go serves.
const Tick = 10 * time.Millisecond

// Age is how long ago a process was started whose start time, in ticks since boot, is given: proc_pid_stat(5). The
// clock goes on while the machine is suspended, CLOCK_BOOTTIME.
func Age(startTime uint64) (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, wrap("clock_gettime", err)
	}
	return time.Duration(now.Nano()) - time.Duration(startTime)*Tick, nil
}

// FileTime is the time that a file gets that is made now: the clock of files is coarser than the time of day, CLOCK_REALTIME_COARSE of
// clock_gettime(2).
func FileTime() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts); err != nil {
		return time.Now()
	}
	return time.Unix(ts.Unix())
}

// Monotonic is the time of CLOCK_MONOTONIC, as clock_gettime(2).
func Monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
