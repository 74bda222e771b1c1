"""Tell the watcher what this process has bound: one datagram, right after bind(2) or listen(2).

The watcher's address is in $SOCKWATCH_NOTIFY. Where that is unset nobody watches, and nothing happens. docs/notify.md
is the protocol.

These functions never raise. They take microseconds, and 100 ms when the watcher's queue is full.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import Union

__all__ = ["VARIABLE", "bound", "closed"]

VARIABLE = "SOCKWATCH_NOTIFY"

_PATIENCE = 0.1  # seconds
_LONGEST = 32 << 10



def bound(path: "Union[str, bytes, os.PathLike[str], os.PathLike[bytes]]") -> bool:
    """Reports that this process has bound the sock-file at path, relative to the working directory of this moment.
    Returns whether the report was sent: not when nobody watches, nor when the watcher has gone or did not take it
    within 100 ms. The program has lost nothing by that but the certainty that its file goes with it."""
    return _report(b"BIND=", path)


def closed(path: "Union[str, bytes, os.PathLike[str], os.PathLike[bytes]]") -> bool:
    """Reports that the sock-file at path is not this process's concern any more: it has removed it, or given the
    socket away. Returns whether the report was sent."""
    return _report(b"UNBIND=", path)


def _report(key: bytes, path: "Union[str, bytes, os.PathLike[str], os.PathLike[bytes]]") -> bool:
    try:
        address = os.environb.get(VARIABLE.encode(), b"")
        exact = os.fsencode(path)
        if not address or not exact:
            return False
        if not exact.startswith(b"/"):
            # Not os.path.join or abspath: to clean a path changes the meaning of ".." behind a symlink.
            exact = os.getcwdb().rstrip(b"/") + b"/" + exact
        if b"\n" in exact or b"\0" in exact:
            return False  # the protocol cannot carry that
        message = key + exact + b"\n"
        return len(message) <= _LONGEST and _send(address, message)
    except Exception:
        return False


def _send(address: bytes, message: bytes) -> bool:
    if address.startswith(b"@"):
        address = b"\0" + address[1:]  # the abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as s:
        s.connect(address)  # poll(2) knows of room in the peer's queue for a connected socket only
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                s.send(message)
                return True
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                poll = select.poll()
                poll.register(s, select.POLLOUT)
                poll.poll(left * 1000)
