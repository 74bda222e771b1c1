"""System calls that the standard library does not have, by ctypes. Each raises OSError as those of os do.

The numbers are those of x86-64 and of the generic table (arm64, riscv64, ...). Python and libc may be of any kind
beside that: nothing here depends on the version of libc but inotify, which all have.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
from typing import NamedTuple, Optional

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_X86_64 = platform.machine() in ("x86_64", "amd64")
_NR_renameat2 = 316 if _X86_64 else 276
_NR_name_to_handle_at = 303 if _X86_64 else 264
_NR_statx = 332 if _X86_64 else 291
_NR_pidfd_send_signal = 424
_NR_pidfd_open = 434
_NR_openat2 = 437

AT_EMPTY_PATH = 0x1000
AT_HANDLE_FID = 0x200
O_PATH = getattr(os, "O_PATH", 0o10000000)

PROC_SUPER_MAGIC = 0x9FA0
PID_FS_MAGIC = 0x50494446
OVERLAYFS_SUPER_MAGIC = 0x794C7630
BTRFS_SUPER_MAGIC = 0x9123683E

IN_CREATE, IN_MOVED_TO, IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR, IN_ISDIR = 0x100, 0x80, 0x4000, 0x8000, 0x1000000, 0x40000000


def _checked(result: int, *paths: object) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *paths)
    return result


def _syscall(number: int, *args: object) -> int:
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    while True:
        result = int(_libc.syscall(ctypes.c_long(number), *wide))
        if result >= 0 or ctypes.get_errno() != errno.EINTR:
            return _checked(result)


def open_pin(name: bytes, dirfd: Optional[int] = None) -> int:
    """Opens name itself, whatever it is, without opening what is behind it. No server notices."""
    return os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)


def open_directory(path: bytes, dirfd: Optional[int] = None) -> int:
    """Opens a directory as a place to work in: no read permission is needed. Symlinks are followed."""
    return os.open(path, O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dirfd)


def open_directory_in(root: int, path: bytes) -> int:
    """Opens a directory as a process with that root directory would: openat2(2), Linux 5.6."""
    how = struct.pack("QQQ", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, 0x10 | 0x02)  # IN_ROOT, NO_MAGICLINKS
    for _ in range(128):  # EAGAIN: something was renamed or mounted meanwhile
        try:
            return _syscall(_NR_openat2, root, ctypes.c_char_p(path), ctypes.c_char_p(how), len(how))
        except BlockingIOError as e:
            last = e
    raise last


def rename_noreplace(dirfd: int, old: bytes, new: bytes) -> None:
    """renameat2(2) with RENAME_NOREPLACE inside one directory. EINVAL where the filesystem does not know that."""
    _syscall(_NR_renameat2, dirfd, ctypes.c_char_p(old), dirfd, ctypes.c_char_p(new), 1)


def file_handle(fd: int, flags: int = 0) -> bytes:
    """The handle of name_to_handle_at(2), with its type."""
    size = 128  # MAX_HANDLE_SZ
    buf = ctypes.create_string_buffer(struct.pack("Ii", size, 0), 8 + size)
    mount = ctypes.c_int()
    _syscall(_NR_name_to_handle_at, fd, ctypes.c_char_p(b""), buf, ctypes.byref(mount), AT_EMPTY_PATH | flags)
    used = struct.unpack_from("I", buf.raw)[0]
    return buf.raw[4 : 8 + used]


def filesystem_type(fd: int) -> int:
    """f_type of fstatfs(2), one of the magic numbers of statfs(2)."""
    buf = ctypes.create_string_buffer(256)
    while _libc.fstatfs(fd, buf) != 0:
        if ctypes.get_errno() != errno.EINTR:
            _checked(-1)
    return int(struct.unpack_from("@l", buf.raw)[0]) & 0xFFFFFFFF


def on_procfs() -> bool:
    """Whether /proc/thread-self/fd is what it should be: a directory of procfs."""
    try:
        fd = open_directory(b"/proc/thread-self/fd")
    except FileNotFoundError:
        return False
    try:
        return filesystem_type(fd) == PROC_SUPER_MAGIC
    finally:
        os.close(fd)


class Statx(NamedTuple):
    """What is needed of statx(2)."""

    fixed: bool  # immutable or append-only
    device: "tuple[int, int]"
    inode: int
    mount: int  # the mount's id, Linux 5.8


def statx(fd: int) -> Statx:
    buf = ctypes.create_string_buffer(256)
    _syscall(_NR_statx, fd, ctypes.c_char_p(b""), AT_EMPTY_PATH, 0x100 | 0x1000, buf)
    (attributes,) = struct.unpack_from("Q", buf.raw, 8)
    (inode,) = struct.unpack_from("Q", buf.raw, 32)
    major, minor, mount = struct.unpack_from("IIQ", buf.raw, 136)
    return Statx(bool(attributes & 0x30), (major, minor), inode, mount)


def pidfd_open(pid: int) -> int:
    """Linux 5.3. ProcessLookupError where there is no such process."""
    return _syscall(_NR_pidfd_open, pid, 0)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Linux 5.1. ProcessLookupError when the process is gone."""
    send = getattr(signal, "pidfd_send_signal", None)
    if send is not None:
        send(pidfd, number)
    else:
        _syscall(_NR_pidfd_send_signal, pidfd, number, 0, 0)


def pidfd_exit_status(pidfd: int) -> Optional[int]:
    """The wait status of a process that has ended and was reaped, by whomever: PIDFD_GET_INFO with PIDFD_INFO_EXIT,
    Linux 6.15. None where the kernel does not tell."""
    size = 64  # PIDFD_INFO_SIZE_VER0
    buf = ctypes.create_string_buffer(struct.pack("Q", 1 << 3), size)
    request = 0xC0000000 | size << 16 | 0xFF << 8 | 11  # _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)
    if _libc.ioctl(ctypes.c_int(pidfd), ctypes.c_ulong(request), buf) != 0:
        return None
    mask, status = struct.unpack_from("Q", buf.raw)[0], struct.unpack_from("i", buf.raw, 60)[0]
    return status if mask & 1 << 3 else None


def inotify_init() -> int:
    return _checked(int(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)))


def inotify_add(fd: int, path: bytes, mask: int) -> int:
    return _checked(int(_libc.inotify_add_watch(fd, ctypes.c_char_p(path), ctypes.c_uint32(mask))), path)
