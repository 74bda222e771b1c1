"""Where a dead answer of the probe cannot be believed.

A socket is found by the inode that it was bound through. Where one file has several inodes, the probe sees the
sockets of its own way only: the layers of an overlay and what is merged from them, or the same network filesystem on
two machines. Through the other ways a live sock-file looks dead.

Layers are what the mount tables of all processes say that can be read, what has overlayfs's attributes, and the
storage of well-known programs. In doubt a directory is one.
"""

from __future__ import annotations

import os
import re
import time
from typing import Iterator, NamedTuple, Optional

from . import _sys
from .outcome import Reason

# Filesystems that more than one kernel can have mounted, and FUSE, which can show anything; virtiofs says that it is
# FUSE.
_NETWORK = {
    0x6B414653,  # kAFS
    0x5346414F,  # AFS
    0x00C36400,  # Ceph
    0xFF534D42,  # CIFS
    0x73757245,  # Coda
    0x65735546,  # FUSE
    0x0000564C,  # NCP
    0x00006969,  # NFS
    0x7461636F,  # OCFS2
    0xFE534D42,  # SMB2
    0x0000517B,  # SMB
    0x01021997,  # 9p
    0x01161970,  # GFS2
    0x0BD00BD0,  # Lustre
    0x013111A8,  # IBRIX
    0x19830326,  # BeeGFS
    0x20030528,  # OrangeFS
    0x47504653,  # GPFS
    0x61636673,  # ACFS
    0x786F4256,  # vboxsf
    0x7C7C6673,  # prl_fs
    0xA501FCF5,  # VxFS
    0xAAD7AAEA,  # PanFS
    0xBACBACBC,  # vmhgfs
    0xBEEFDEAD,  # SNFS
}

_STORAGE = (
    b"/var/lib/containerd",
    b"/var/lib/containers/storage",
    b"/var/lib/docker",
    b"/var/lib/rancher/k3s/agent/containerd",
    b"/var/lib/rancher/rke2/agent/containerd",
    b"/var/snap/docker/common/var-lib-docker",
    b"/var/snap/microk8s/common/var/lib/containerd",
)
_ROOTLESS = (b"containerd", b"containers/storage", b"docker")
_ROOTLESS_HOME = b".local/share"

_AGE = 1.0  # seconds that the layers are believed: an overlay can be mounted at any time


def blind(dirfd: int) -> Reason:
    """Why a dead answer cannot be believed in a directory. OSError when that cannot be found out."""
    try:
        if _sys.filesystem_type(dirfd) in _NETWORK:
            return Reason.NETWORK_FS
    except OSError:
        return Reason.NETWORK_FS
    return Reason.OVERLAY_LAYER if _Layers.known().include(dirfd) else Reason.NONE


_Inode = "tuple[tuple[int, int], int]"


class _Mount(NamedTuple):
    id: int
    device: "tuple[int, int]"
    root: bytes
    point: bytes
    kind: bytes
    options: bytes


def _mounts(process: str) -> Iterator[_Mount]:
    with open("/proc/%s/mountinfo" % process, "rb") as f:
        for line in f:
            fields = line.rstrip(b"\n").split(b" ")
            after = fields.index(b"-", 6) + 1
            major, minor = fields[2].split(b":")
            yield _Mount(int(fields[0]), (int(major), int(minor)), _unescape(fields[3]), _unescape(fields[4]),
                         fields[after], fields[after + 2])


def _unescape(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8) & 0xFF]), field)


class _Layers:
    _latest: "Optional[_Layers]" = None

    @classmethod
    def known(cls) -> "_Layers":
        if cls._latest is None or time.monotonic() - cls._latest._at >= _AGE:
            cls._latest = cls()
        return cls._latest

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._inodes: "set[object]" = set()
        self._paths: "dict[bytes, bool]" = {}  # absolute; False: could not be opened
        self._relative: "list[bytes]" = []  # as mount tables have them, relative to nobody knows what
        self._own: "list[_Mount]" = []
        data = os.environb.get(b"XDG_DATA_HOME", b"")
        if not data.startswith(b"/"):
            data = os.path.join(os.environb.get(b"HOME", b"/"), _ROOTLESS_HOME)
        for path in _STORAGE + tuple(os.path.join(data, s) for s in _ROOTLESS):
            self._add_inode(lambda path=path: _sys.open_directory(path))
        try:
            with open("/proc/filesystems", "rb") as f:
                possible = b"\toverlay\n" in f.read()
        except OSError:
            possible = True
        if possible:  # else there is nothing to read a hundred mount tables for
            self._find_mounted()

    def _add_inode(self, open_it: "object") -> bool:
        try:
            fd = open_it()  # type: ignore[operator]
        except OSError:
            return False
        try:
            st = _sys.statx(fd)
            self._inodes.add((st.device, st.inode))
            return True
        except OSError:
            return False
        finally:
            os.close(fd)

    def _find_mounted(self) -> None:
        self._read("thread-self")
        tables = {self._table("thread-self")}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                table = self._table(pid)
                if table not in tables:
                    tables.add(table)
                    self._read(pid)
            except (FileNotFoundError, ProcessLookupError, PermissionError, ValueError):
                continue
            except OSError as e:
                if e.errno != 22:  # EINVAL: a zombie has no mount namespace any more
                    raise

    @staticmethod
    def _table(process: str) -> object:
        """A key for the mount table that a process sees."""
        try:
            return os.readlink("/proc/%s/ns/mnt" % process), os.readlink("/proc/%s/root" % process)
        except PermissionError:  # of other users' processes the links are secret, the table is not
            for m in _mounts(process):
                return m.id
            return None

    def _read(self, process: str) -> None:
        for m in _mounts(process):
            if process == "thread-self":
                self._own.append(m)
            if m.kind == b"overlay":
                for path in _layer_paths(m.options):
                    self._add(path, process)

    def _add(self, path: bytes, process: str) -> None:
        path = os.path.normpath(path)
        if path.startswith(b"/"):
            # Whoever has mounted the overlay has resolved it: it is tried from that root directory and from ours.
            opened = self._add_inode(lambda: _sys.open_directory(path))
            if process != "thread-self":
                opened = self._add_inode(lambda: _open_in_root(process, path)) or opened
            self._paths[path] = self._paths.get(path, False) or opened
        elif path != b"." and not path.startswith(b".."):
            self._relative.append(b"/" + path + b"/")

    def include(self, dirfd: int) -> bool:
        """Whether the directory is a layer or in one."""
        barred = False
        try:
            for fd, st in self._ancestors(dirfd):
                if (st.device, st.inode) in self._inodes or _has_overlay_attribute(fd):
                    return True
        except PermissionError:
            barred = True  # from going up
        path = os.readlink(b"/proc/thread-self/fd/%d" % dirfd)
        above = path
        while True:
            opened = self._paths.get(above)
            if opened is not None and (barred or not opened):
                return True
            if len(above) <= 1:
                break
            above = os.path.dirname(above)
        path += b"/"
        return any(r in path for r in self._relative) or any(
            b"/" + _ROOTLESS_HOME + b"/" + s + b"/" in path for s in _ROOTLESS
        )

    def _ancestors(self, dirfd: int) -> "Iterator[tuple[int, _sys.Statx]]":
        """The directory and those above it in its filesystem. A layer does not reach into what is mounted in it; but
        where a mount shows only a part of its filesystem, the way goes on in another one that shows more."""
        fd = os.open(b".", _sys.O_PATH | os.O_CLOEXEC, dir_fd=dirfd)
        try:
            st = _sys.statx(fd)
            while True:
                yield fd, st
                while True:
                    up = os.open(b"..", _sys.O_PATH | os.O_CLOEXEC, dir_fd=fd)
                    os.close(fd)
                    fd, below, st = up, st, _sys.statx(up)
                    if st.mount == below.mount and st != below:
                        break
                    again = self._remount(below)
                    if again is None:
                        return
                    os.close(fd)
                    fd, st = again
        finally:
            os.close(fd)

    def _remount(self, st: "_sys.Statx") -> "Optional[tuple[int, _sys.Statx]]":
        """The root directory of a mount in another one that shows more of the filesystem."""
        parts = [m for m in self._own if m.id == st.mount]
        if not parts:
            return None
        part = parts[-1]
        for m in self._own:
            prefix = m.root.rstrip(b"/") + b"/"
            if m.device != part.device or len(m.root) >= len(part.root) or not part.root.startswith(prefix):
                continue
            try:
                fd = _sys.open_directory(m.point + b"/" + part.root[len(prefix):])
            except OSError:
                continue
            there = _sys.statx(fd)
            if there.mount == m.id and (there.device, there.inode) == (st.device, st.inode):
                return fd, there
            os.close(fd)
        return None


def _open_in_root(process: str, path: bytes) -> int:
    root = _sys.open_directory(b"/proc/%s/root" % process.encode())
    try:
        return _sys.open_directory_in(root, path)
    finally:
        os.close(root)


def _has_overlay_attribute(fd: int) -> bool:
    """Whether overlayfs has written down something about the directory, as it does in upper layers."""
    try:
        names = os.listxattr(b"/proc/thread-self/fd/%d" % fd)
    except OSError:
        return False
    return any(n.startswith(("trusted.overlay.", "user.overlay.")) for n in names)


def _layer_paths(options: bytes) -> Iterator[bytes]:
    """The directories in the options of an overlay. Backslashes stay in some of the values and not in others, so that
    what holds one gives two paths, of which one is wrong and harms nobody."""
    for option in options.split(b","):
        key, _, value = option.partition(b"=")
        value = _unescape(value)
        paths = []
        if key in (b"upperdir", b"workdir", b"lowerdir+", b"datadir+"):
            paths = [value]
        elif key == b"lowerdir":
            paths = re.split(rb"(?<!\\):", value)
        for path in filter(None, paths):
            yield path
            if b"\\" in path:
                yield re.sub(rb"\\(.)", rb"\1", path)
