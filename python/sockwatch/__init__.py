"""sockwatch removes a dead process's sock-files the moment it dies, and never a live one.

    bound, closed       report to the watcher what this process has bound
    hard_kill           end a process, and remove what it leaves behind
    unlink_bind_addrs   the last step of somebody else's hard kill
    tracked             take the snapshot before it
    SockFile            one sock-file: probe it, remove it
    Client              the daemon

The pytest plugin is sockwatch.pytest_plugin. Nothing here needs the daemon, root, or more than the standard library.
Linux 5.8.
"""

from .client import Client, DaemonError, Monitor, NoDaemon
from .kill import Killed, Tracked, hard_kill, tracked, unlink_bind_addrs
from .notify import bound, closed
from .outcome import Outcome, Reason, Result, State
from .remove import NotSocket, SockFile

__all__ = [
    "Client",
    "DaemonError",
    "Killed",
    "Monitor",
    "NoDaemon",
    "NotSocket",
    "Outcome",
    "Reason",
    "Result",
    "SockFile",
    "State",
    "Tracked",
    "bound",
    "closed",
    "hard_kill",
    "tracked",
    "unlink_bind_addrs",
]
