"""A handle on a process: its pidfd, never its pid alone. It never takes a wait status away from anybody."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Optional

from . import _sys


class Process:
    """Opened while the process was there. One descriptor. It stands for that process also when the pid is given to
    another."""

    def __init__(self, pid: int) -> None:
        """ProcessLookupError where there is no such process; OSError. Linux 5.3."""
        if pid <= 0:
            raise ProcessLookupError(3, "%d is not a pid" % pid)
        self.pid = pid
        self._fd = _sys.pidfd_open(pid)
        self._status: Optional[int] = None

    def fileno(self) -> int:
        """The pidfd: readable when the process has ended."""
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    @property
    def ended(self) -> bool:
        return self.wait(0)

    def wait(self, timeout: Optional[float]) -> bool:
        """Waits until the process has ended, all its threads, for so many seconds. Returns whether it has. It stays a
        zombie for who is to reap it."""
        if self._fd < 0:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            # Rounded up: a poll that ends a millisecond early would only be done again.
            if poll.poll(None if left is None else -(-left * 1000 // 1)):
                return True
            if left is not None and left <= 0.001:
                return False

    def signal(self, number: int) -> None:
        """ProcessLookupError when it is gone, PermissionError."""
        _sys.pidfd_send_signal(self._fd, number)

    @property
    def identity(self) -> Optional[str]:
        """PID:INODE, or PID:tSTARTTIME before Linux 6.9; None when it is gone and that is not known."""
        try:
            if _sys.filesystem_type(self._fd) == _sys.PID_FS_MAGIC:
                return "%d:%d" % (self.pid, os.fstat(self._fd).st_ino)
            start = stat_of(self.pid)[19]
            return None if self.ended and not os.path.exists("/proc/%d" % self.pid) else "%d:t%s" % (self.pid, start)
        except OSError:
            return None

    def how_ended(self) -> str:
        """As a shell would say: "exit status 3", "killed by SIGKILL"; "" as long as that is not known. The kernel
        tells who is not the parent once the process is reaped (Linux 6.15); before that, its zombie tells the same
        user."""
        if self._status is None:
            self._status = _sys.pidfd_exit_status(self._fd) if self._fd >= 0 else None
        if self._status is None and self.ended:
            try:
                fields = stat_of(self.pid)
                # It is this process's: the zombie has the pid until it is reaped, which ends the pidfd's being valid.
                if fields[0] == "Z" and fields[49] != "0":
                    _sys.pidfd_send_signal(self._fd, 0)
                    self._status = int(fields[49])
            except (OSError, IndexError, ValueError):
                pass
        return "" if self._status is None else describe(self._status)


def describe(status: int) -> str:
    """A wait status, in words."""
    if os.WIFSIGNALED(status):
        try:
            return "killed by " + signal.Signals(os.WTERMSIG(status)).name
        except ValueError:
            return "killed by signal %d" % os.WTERMSIG(status)
    return "exit status %d" % os.WEXITSTATUS(status)


def stat_of(pid: int) -> "list[str]":
    """The fields of /proc/PID/stat behind the name: the state is the first, the parent the second. OSError."""
    with open("/proc/%d/stat" % pid, "rb") as f:
        return f.read().rpartition(b")")[2].decode().split()


def comm_of(pid: int) -> str:
    """The process's name, "" when it is gone."""
    try:
        with open("/proc/%d/comm" % pid, "rb") as f:
            return f.read().rstrip(b"\n").decode(errors="replace")
    except OSError:
        return ""


def descendants(pid: int) -> "list[int]":
    """A process and all below it now: parents before their children."""
    found = [pid]
    try:
        for p in found:
            found.extend(_children(p))
        return found
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN, or the process itself is gone
        return _below(pid)


def _children(pid: int) -> "list[int]":
    """By /proc/PID/task/TID/children: it costs no more than the process has threads."""
    found: "list[int]" = []
    try:
        threads = os.listdir("/proc/%d/task" % pid)
    except OSError:
        return found
    for tid in threads:
        try:
            with open("/proc/%d/task/%s/children" % (pid, tid), "rb") as f:
                found.extend(map(int, f.read().split()))
        except ProcessLookupError:
            continue
        except FileNotFoundError:
            if os.path.exists("/proc/%d/task/%s" % (pid, tid)):
                raise
        except OSError:
            continue
    return found


def _below(pid: int) -> "list[int]":
    children: "dict[int, list[int]]" = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                children.setdefault(int(stat_of(int(entry))[1]), []).append(int(entry))
            except (OSError, IndexError, ValueError):
                continue
    found = [pid]
    for p in found:
        found.extend(children.get(p, ()))
    return found
