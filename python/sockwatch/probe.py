"""The question to the kernel whether any socket is bound to an inode.

connect(2) of an AF_UNIX datagram socket to the pinned inode. No server notices: nothing is queued, nothing is accepted.
It never blocks, and it sees sockets of every namespace.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Optional

from . import _sys
from .outcome import Reason, State

_procfs = False  # /proc was seen to be procfs: a directory of links by another filesystem would lie


class NoProcfs(Exception):
    """/proc is not mounted or is not procfs: nothing can be probed."""

    def __str__(self) -> str:
        return "/proc is not mounted or is not procfs"


def probe(pin: int, st: os.stat_result) -> "tuple[State, Reason, Optional[Exception]]":
    """Asks about the sock-file that an O_PATH descriptor stands for.

    DEAD means that no socket is bound at this moment: bind(2) makes the file before it binds the socket, so a file
    that was never seen alive is dead for good only when it is dead after a barrier, see remove.
    """
    global _procfs
    if not stat.S_ISSOCK(st.st_mode):  # of other files the kernel says ECONNREFUSED, too
        return State.UNKNOWN, Reason.NOT_SOCKET, None
    try:
        if not _procfs:
            if not _sys.on_procfs():
                return State.UNKNOWN, Reason.NO_PROCFS, NoProcfs()
            _procfs = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as s:
            s.connect(b"/proc/thread-self/fd/%d" % pin)
        return State.ALIVE, Reason.NONE, None
    except OSError as e:
        if e.errno == errno.EPROTOTYPE:
            return State.ALIVE, Reason.NONE, None
        if e.errno == errno.ECONNREFUSED:
            return State.DEAD, Reason.NONE, None
        if e.errno == errno.EPERM and not _fixed(pin):  # a datagram socket that is connected elsewhere
            return State.ALIVE, Reason.NONE, None
        if e.errno == errno.ENOENT:
            return State.UNKNOWN, Reason.NO_PROCFS, NoProcfs()
        denied = e.errno in (errno.EPERM, errno.EACCES)
        return State.UNKNOWN, Reason.PERMISSION if denied else Reason.NONE, e


def _fixed(pin: int) -> bool:
    """Nobody may write to an immutable file, so the kernel says EPERM before it looks for a socket."""
    try:
        return _sys.statx(pin).fixed
    except OSError:
        return True
