"""The kernel's table of AF_UNIX sockets of our network namespace, with the sock-file of each: sock_diag(7).

It is not for deciding whether a sock-file is alive: sockets of other network namespaces are not in it, and a dump can
miss some.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Iterator, NamedTuple

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TCP_ESTABLISHED = 1


class Socket(NamedTuple):
    """One that has a sock-file."""

    inode: int  # of the socket; 0: it waits to be accepted
    kind: int  # SOCK_STREAM, ...
    state: int
    name: bytes  # as bind(2) was told
    file_inode: int  # cut to 32 bits
    file_device: int  # of the superblock, as st_dev has it

    @property
    def is_bound(self) -> bool:
        """It is certainly the one that was bound. An accepted one has the file of its listener, and is connected."""
        return self.inode != 0 and (self.kind == socket.SOCK_DGRAM or self.state != _TCP_ESTABLISHED)


def dump() -> Iterator[Socket]:
    """All sockets that have a sock-file. OSError; some may be missing."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as s:
        show = 1 | 2  # UDIAG_SHOW_NAME, UDIAG_SHOW_VFS
        request = struct.pack("BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, show, 0, 0)
        flags = 1 | 0x300  # NLM_F_REQUEST, NLM_F_DUMP
        s.sendto(struct.pack("IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + request, (0, 0))
        while True:
            part, (sender, _) = s.recvfrom(64 << 10)
            if sender != 0:
                continue  # not the kernel
            at = 0
            while at + 16 <= len(part):
                length, kind = struct.unpack_from("IH", part, at)
                if length < 16:
                    raise OSError("sock_diag: malformed answer")
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("i", part, at + 16)[0]
                    raise OSError(number, "sock_diag: " + os.strerror(number))
                if kind == _SOCK_DIAG_BY_FAMILY:
                    found = _parse(part[at + 16 : at + length])
                    if found is not None:
                        yield found
                at += (length + 3) & ~3


def _parse(message: bytes) -> "Socket | None":
    _, kind, state, _, inode = struct.unpack_from("BBBBI", message)
    name, vfs = b"", None
    at = 16
    while at + 4 <= len(message):
        length, attribute = struct.unpack_from("HH", message, at)
        if length < 4:
            break
        value = message[at + 4 : at + length]
        if attribute == 0:
            name = value
        elif attribute == 1:
            vfs = struct.unpack_from("II", value)
        at += (length + 3) & ~3
    if vfs is None or vfs[0] == 0:
        return None
    ino, dev = vfs
    return Socket(inode, kind, state, name.partition(b"\0")[0], ino, os.makedev(dev >> 20, dev & 0xFFFFF))
