"""What a process may have bound: the snapshot of what it holds, conventions and presets.

The snapshot is /proc/PID/fd joined with the kernel's socket table. It needs the right to look at the process: your
own processes that are dumpable, and those of others with CAP_SYS_PTRACE. Sockets of another network namespace are not
in the table. (The Go module can ask a copy of the descriptor, pidfd_getfd(2). Here the copy could be inherited by a
child that another thread forks, and would keep the socket alive.)
"""

from __future__ import annotations

import os
import re
from typing import Callable, Iterable, Iterator, Optional, Sequence

from . import _sys
from .outcome import State
from .process import Process
from .remove import NotSocket, SockFile, entries
from .sockdiag import Socket, dump

_MERGED = (_sys.BTRFS_SUPER_MAGIC, _sys.OVERLAYFS_SUPER_MAGIC)  # where st_dev is not the superblock's device


def held(process: Process, dirs: "tuple[bytes, ...]" = ()) -> "list[SockFile]":
    """The sock-files of all sockets that are bound and that the process has open at this moment. dirs are searched in
    addition for files that are not where their names say. PermissionError when its descriptors may not be read."""
    inodes = sockets_of(process.pid)
    if process.ended or not inodes:
        return []
    files: "dict[object, SockFile]" = {}
    for s in dump():
        if s.inode in inodes and s.is_bound:
            f = _find(process.pid, s, dirs)
            if f is not None:
                files.setdefault(f.identity, f)
    return list(files.values())


def sockets_of(pid: int) -> "set[int]":
    """The inode numbers of the sockets that a process has open, of any family. OSError."""
    found = set()
    fds = "/proc/%d/fd" % pid
    for fd in os.listdir(fds):
        try:
            link = os.readlink("%s/%s" % (fds, fd))
        except OSError:
            continue
        if link.startswith("socket:["):
            found.add(int(link[8:-1]))
    return found


def _find(pid: int, s: Socket, dirs: "tuple[bytes, ...]") -> Optional[SockFile]:
    """The file of a socket. The table has 32 bits of the inode number, so the file must not be dead, either."""
    leads = list(_leads(pid, s.name, dirs))
    for lead in leads:
        parent = _parent(lead)
        if parent is not None:
            f = _open(parent, os.path.basename(s.name), lead, s)
            if f is not None:
                return f
    for lead in leads + [(None, d + b"/x") for d in dirs]:  # it was renamed
        parent = _parent(lead)
        if parent is None:
            continue
        try:
            for e in entries(parent):
                if e.socket and e.number & 0xFFFFFFFF == s.file_inode:
                    f = _open(os.dup(parent), e.name, (lead[0], os.path.dirname(lead[1]) + b"/" + e.name), s)
                    if f is not None:
                        return f
        except OSError:
            continue
        finally:
            os.close(parent)
    return None


def _leads(pid: int, name: bytes, dirs: "tuple[bytes, ...]") -> "Iterator[tuple[Optional[bytes], bytes]]":
    root = b"/proc/%d/root" % pid
    try:
        mounts = os.readlink("/proc/%d/ns/mnt" % pid)
        ours = os.readlink(root) == b"/" and mounts == os.readlink("/proc/thread-self/ns/mnt")
    except OSError:
        ours = True
    try:
        cwd = os.readlink(b"/proc/%d/cwd" % pid)
    except OSError:
        cwd = b""
    if name.startswith(b"/"):
        yield (None if ours else root), name
        return
    if cwd:
        yield (None if ours else root), cwd + b"/" + name
    for d in dirs:
        yield None, d + b"/" + name


def _parent(lead: "tuple[Optional[bytes], bytes]") -> Optional[int]:
    root, path = lead
    parent = os.path.dirname(path) or b"/"
    try:
        if root is None:
            return _sys.open_directory(parent)
        fd = _sys.open_directory(root)
        try:
            return _sys.open_directory_in(fd, parent)
        finally:
            os.close(fd)
    except OSError:
        return None


def _open(parent: int, name: bytes, lead: "tuple[Optional[bytes], bytes]", s: Socket) -> Optional[SockFile]:
    """The file of the socket, if it has that name. Takes over the directory's descriptor."""
    path = lead[1] if lead[0] is None else lead[0] + b"/" + lead[1].lstrip(b"/")
    try:
        f = SockFile.at(parent, name, path)
    except (OSError, NotSocket):
        return None
    same = f.identity.ino & 0xFFFFFFFF == s.file_inode and (f.identity.dev == s.file_device or _merged(f))
    if same and f.probe()[0] is not State.DEAD:
        return f
    f.close()
    return None


def _merged(f: SockFile) -> bool:
    try:
        return _sys.filesystem_type(f._dirfd) in _MERGED
    except OSError:
        return False


def holders(files: "Sequence[SockFile]", pids: "Iterable[int]") -> "list[list[int]]":
    """Of each file, those of the processes that have the socket open that is bound to it, in their order. Processes
    that may not be looked at are passed over. OSError when the kernel's table cannot be read."""
    bound: "list[set[int]]" = [set() for _ in files]
    loose = [_merged(f) for f in files]
    for s in dump():
        if s.is_bound:
            for i, f in enumerate(files):
                if f.identity.ino & 0xFFFFFFFF == s.file_inode and (loose[i] or f.identity.dev == s.file_device):
                    bound[i].add(s.inode)
    found: "list[list[int]]" = [[] for _ in files]
    if any(bound):
        for pid in pids:
            try:
                inodes = sockets_of(pid)
            except OSError:
                continue
            for i, wanted in enumerate(bound):
                if not wanted.isdisjoint(inodes):
                    found[i].append(pid)
    return found


def held_by_anybody(files: "Sequence[SockFile]") -> "list[bool]":
    """Of each file, whether a process can be seen that has its socket open."""
    try:
        return [bool(h) for h in holders(files, map(int, filter(str.isdigit, os.listdir("/proc"))))]
    except OSError:
        return [False] * len(files)


def convention(pattern: str) -> "Callable[[Optional[str], int], Optional[str]]":
    """Reads a pattern such as "{name}@{pid}.sock". What it returns gives the base name that a process would use, or
    None without what the pattern needs. {{ and }} are braces. ValueError says what is wrong."""
    parts = re.split(r"(\{\{|\}\}|\{[^{}]*\}|[{}])", pattern)
    holes = [p for p in parts if p in ("{name}", "{pid}")]
    for p in parts:
        if p in ("{", "}") or (p.startswith("{") and p not in ("{{", "{name}", "{pid}")):
            raise ValueError("convention %r: %r: known are {name} and {pid}; braces are written {{ and }}" % (pattern, p))
    if "/" in pattern or "\0" in pattern:
        raise ValueError("convention %r: it names a file in a bindspace" % pattern)
    if not holes or len(set(holes)) != len(holes):
        raise ValueError("convention %r: it must have {name} or {pid}, and each once" % pattern)

    def build(name: Optional[str], pid: int) -> Optional[str]:
        if ("{pid}" in holes and pid <= 0) or ("{name}" in holes and (not name or "/" in name or "\0" in name)):
            return None
        filled = {"{name}": name or "", "{pid}": str(pid), "{{": "{", "}}": "}"}
        base = "".join(filled.get(p, p) for p in parts)
        return None if base in (".", "..") or len(os.fsencode(base)) > 255 else base

    return build


_PRESETS = {"tractor": (("tractor",), ("{name}@{pid}.sock",))}


def preset(name: str) -> "tuple[list[str], list[str]]":
    """The bindspaces and conventions of a known program, for the user and the environment of this process.
    ValueError."""
    if name not in _PRESETS:
        raise ValueError("no preset %r; there is: %s" % (name, ", ".join(sorted(_PRESETS))))
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        runtime = "/run/user/%d" % os.getuid()
    bindspaces, conventions = _PRESETS[name]
    return [os.path.join(runtime, b) for b in bindspaces], list(conventions)
