"""A sock-file and its removal: only that inode, never another, and never one that a socket is bound to.

unlink(2) cannot be told "only if it is this file". Between any check and the unlink a server can bind anew under the
name. So:

1. pin the file under its name; it is a sock-file, and the one that is meant
2. probe: dead
3. barrier, and probe again: dead for good (not needed for a file that was seen alive before)
4. the name is still that file's
5. rename it to a private name in the same directory, replacing nothing
6. the private name is that file's, and it probes dead once more: unlink the private name
7. if not, rename it back, replacing nothing

It is what package reap of the Go module does; docs/concepts.md has the reasons.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from contextlib import contextmanager
from typing import Iterator, NamedTuple, Optional, Union

from . import _sys
from .outcome import Outcome, Reason, Refused, Result, State, refusal
from .probe import probe
from .view import blind

PRIVATE_PREFIX = b".sockwatch-"
_PRIVATE_SHORTEST = 16
_PRIVATE_LONGEST = len(PRIVATE_PREFIX) + 26


class NotSocket(Exception):
    """The name is there and is not a sock-file."""


class Identity(NamedTuple):
    """Of a sock-file: inode numbers are given out again at once, the handle holds the inode's generation. Without a
    handle (the filesystem has none) it is unique for as long as the SockFile it came from is open."""

    dev: int
    ino: int
    handle: Optional[bytes]


class _Pin(NamedTuple):
    fd: int
    stat: os.stat_result


class SockFile:
    """One sock-file: its directory, its name there and its identity. It is the inode that was there when it was opened,
    whatever has the name later. It has one descriptor, two where the filesystem has no file handles. Not for use by
    several threads at once."""

    def __init__(self, path: "Union[str, bytes, os.PathLike[str]]") -> None:
        """Opens the sock-file with that path, which may be longer than the 108 bytes of an address. Symlinks on the way
        are followed, in the last element not. OSError; NotSocket."""
        whole = os.fsencode(path)
        parent, name = os.path.split(whole)
        if not whole:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if name in (b"", b".", b".."):
            raise NotSocket("it names a directory")
        self._open(_sys.open_directory(parent or b"."), name, whole)

    @classmethod
    def at(cls, dirfd: int, name: bytes, path: bytes) -> "SockFile":
        """Opens an entry of a directory, whose descriptor it takes over."""
        f = cls.__new__(cls)
        f._open(dirfd, name, path)
        return f

    def _open(self, dirfd: int, name: bytes, path: bytes) -> None:
        self._dirfd, self._name, self._path, self._pinfd = dirfd, name, path, -1
        self.seen_alive = False
        try:
            with _pinned(dirfd, name) as pin:
                if not stat.S_ISSOCK(pin.stat.st_mode):
                    raise NotSocket("not a sock-file")
                self.identity = _identify(pin)
                self.uid = pin.stat.st_uid
                if self.identity.handle is None:
                    self._pinfd = os.dup(pin.fd)
        except BaseException:
            os.close(dirfd)
            self._dirfd = -1
            raise

    @property
    def path(self) -> str:
        return os.fsdecode(self._path)

    def close(self) -> None:
        """Gives up the descriptors. The sock-file itself is not touched."""
        for fd in (self._dirfd, self._pinfd):
            if fd >= 0:
                os.close(fd)
        self._dirfd = self._pinfd = -1

    def __enter__(self) -> "SockFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_dirfd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return "SockFile(%r)" % self.path

    def probe(self) -> "tuple[State, Reason]":
        """Asks the kernel whether any socket is bound to this inode. DEAD is for good. UNKNOWN also when the name is
        gone or another's, and where a dead answer cannot be believed."""
        try:
            with _pinned(self._dirfd, self._name) as pin:
                if not self._is(pin):
                    return State.UNKNOWN, Reason.NONE
                kept = self._condemn(pin)
        except OSError as e:
            return State.UNKNOWN, refusal(self.path, "pin", e).reason
        if kept is None:
            return State.DEAD, Reason.NONE
        if kept.outcome is Outcome.ALIVE:
            return State.ALIVE, Reason.NONE
        return State.UNKNOWN, kept.reason

    def present(self) -> bool:
        """Whether the name is still this inode's."""
        try:
            with _pinned(self._dirfd, self._name) as pin:
                return self._is(pin)
        except OSError:
            return False

    def remove(self) -> Result:
        """Removes the sock-file if it is still the inode that was opened and no socket is bound to it, and nothing
        else ever.

        A file that was renamed or hard-linked inside its directory is found by its identity and removed under all its
        names there. What the kernel refuses is in the Result, not raised. It returns at once."""
        first, links = self._remove_name(self._name)
        if first.outcome not in (Outcome.GONE, Outcome.REPLACED) and (first.outcome is not Outcome.REMOVED or links <= 1):
            return first
        # The name is gone or is another inode's, or the inode has more names: look for them in the directory.
        try:
            others = self._other_names()
        except OSError as e:
            if first.outcome is Outcome.REMOVED or e.errno == errno.EACCES:
                return Result(first.path, first.outcome, first.reason, e, "look for other names")
            return refusal(self.path, "look for other names", e)
        for name in others:
            result, _ = self._remove_name(name)
            if result.outcome not in (Outcome.GONE, Outcome.REPLACED):
                first = result
        return first

    def _is(self, pin: _Pin) -> bool:
        if (pin.stat.st_dev, pin.stat.st_ino) != self.identity[:2] or not stat.S_ISSOCK(pin.stat.st_mode):
            return False
        if self.identity.handle is None:
            return self._pinfd >= 0  # our own pin keeps the number from being given out again
        return _identify(pin) == self.identity

    def _other_names(self) -> "list[bytes]":
        names = []
        merged = _sys.filesystem_type(self._dirfd) == _sys.OVERLAYFS_SUPER_MAGIC  # the listing's numbers can differ
        try:
            for e in entries(self._dirfd):
                if e.name != self._name and (merged or e.inode() == self.identity.ino):
                    names.append(e.name)
        except FileNotFoundError:
            pass  # the directory itself is gone
        return names

    def _remove_name(self, name: bytes) -> "tuple[Result, int]":
        """The protocol on one name of the directory. Tells how many links the inode had."""
        try:
            with _pinned(self._dirfd, name) as pin:
                if not stat.S_ISSOCK(pin.stat.st_mode):
                    return Result(self.path, Outcome.REPLACED, Reason.NOT_SOCKET), 0
                try:
                    if not self._is(pin):
                        return Result(self.path, Outcome.REPLACED), 0
                except OSError as e:
                    return refusal(self.path, "identify", e), 0
                result = self._condemn(pin)
                if result is None:
                    result = self._unlink(pin, name)
                return result, pin.stat.st_nlink
        except OSError as e:
            return refusal(self.path, "pin", e), 0

    def _condemn(self, pin: _Pin) -> Optional[Result]:
        """None when the pinned inode is dead for good, else why it is kept."""
        kept = self._ask(pin)
        if kept is not None or self.seen_alive:
            return kept
        kept = self._unbelievable(pin)
        if kept is not None:
            return kept
        # bind(2) holds the lock of the directory from making the file until the socket is found by the probe. What
        # takes that lock and changes nothing waits for the end of every bind that is under way.
        try:
            os.unlink(_absent_name(), dir_fd=self._dirfd)
        except FileNotFoundError:
            pass
        except OSError as e:
            return refusal(self.path, "barrier", e)
        return self._ask(pin)

    def _ask(self, pin: _Pin) -> Optional[Result]:
        state, reason, error = probe(pin.fd, pin.stat)
        if state is State.DEAD:
            return None
        if state is State.ALIVE:
            self.seen_alive = True
            return Result(self.path, Outcome.ALIVE)
        outcome = Outcome.REFUSED if reason is Reason.PERMISSION else Outcome.UNKNOWN
        return Result(self.path, outcome, reason, error, "probe")

    def _unbelievable(self, pin: _Pin) -> Optional[Result]:
        """Why "dead" cannot be believed of an inode that was never seen alive, if so."""
        try:
            reason = blind(self._dirfd)
        except OSError as e:
            kept = refusal(self.path, "look for overlays", e)
            return kept if kept.outcome is Outcome.FAILED else self._refused(
                Reason.OVERLAY_LAYER, "it cannot be seen whether it is in a layer of an overlay")
        if reason is not Reason.NONE:
            return self._refused(reason, "a socket that is bound to it elsewhere would not be seen from here")
        if pin.stat.st_nlink > 1:
            # A bind through another directory could be under way, and its lock is not ours to wait for.
            return self._refused(
                Reason.HARD_LINKED, "it has %d links and was never seen alive" % pin.stat.st_nlink)
        return None

    def _refused(self, reason: Reason, why: str) -> Result:
        return Result(self.path, Outcome.REFUSED, reason, Refused(why), "refused")

    def _named(self, pin: _Pin, name: bytes) -> bool:
        st = os.stat(name, dir_fd=self._dirfd, follow_symlinks=False)
        return (st.st_dev, st.st_ino) == (pin.stat.st_dev, pin.stat.st_ino)

    def _unlink(self, pin: _Pin, name: bytes) -> Result:
        """Removes the pinned and condemned inode under that name."""
        try:
            if not self._named(pin, name):
                return Result(self.path, Outcome.REPLACED)
        except OSError as e:
            return refusal(self.path, "look at the name again", e)
        private = b""
        try:
            # A KeyboardInterrupt, or a timeout that is raised by a signal handler, must not leave it under the
            # private name. So the name is known before it is used.
            while True:
                private = _absent_name()[: min(max(len(name), _PRIVATE_SHORTEST), _PRIVATE_LONGEST)]
                try:
                    _sys.rename_noreplace(self._dirfd, name, private)
                    break
                except FileExistsError:
                    private = b""
                except OSError as e:
                    if e.errno != errno.EINVAL:
                        private = b""
                        return refusal(self.path, "rename to a private name", e)
                    private = _absent_name()
                    kept = self._hide_replacing(name, private)
                    if kept is not None:
                        private = b""
                        return kept
                    break
            result = self._drop(pin, private)
            if result.outcome in (Outcome.REMOVED, Outcome.GONE):
                private = b""
                return result
        except BaseException:
            if private:
                self._unhide(private, name)
            raise
        error = self._unhide(private, name)
        if error is not None:
            return Result(result.path, result.outcome, result.reason, error,
                          "kept as %s: rename back" % os.fsdecode(private))
        return result

    def _hide_replacing(self, name: bytes, private: bytes) -> Optional[Result]:
        """For filesystems without RENAME_NOREPLACE: a plain rename to a name of 128 random bits. The way back from
        there is a link, which replaces nothing either; so first see that there are links here."""
        step = "no RENAME_NOREPLACE on this filesystem, and no way back by a link"
        trial = _absent_name()
        try:
            os.link(name, trial, src_dir_fd=self._dirfd, dst_dir_fd=self._dirfd, follow_symlinks=False)
        except OSError as e:
            if e.errno in (errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                return Result(self.path, Outcome.REFUSED, Reason.PERMISSION, e, step)
            return refusal(self.path, step, e)
        try:
            os.unlink(trial, dir_fd=self._dirfd)
            os.rename(name, private, src_dir_fd=self._dirfd, dst_dir_fd=self._dirfd)
        except OSError as e:
            return refusal(self.path, "rename to a private name", e)
        return None

    def _drop(self, pin: _Pin, private: bytes) -> Result:
        """Unlinks the private name if it is that file's. GONE: another remover was faster. Else it is to be renamed
        back."""
        try:
            if not self._named(pin, private):
                return Result(self.path, Outcome.REPLACED)
        except FileNotFoundError:
            return Result(self.path, Outcome.GONE)
        except OSError as e:
            return refusal(self.path, "look at the private name", e)
        kept = self._ask(pin)
        if kept is not None:
            return kept
        try:
            os.unlink(private, dir_fd=self._dirfd)
        except OSError as e:
            return refusal(self.path, "unlink", e)
        return Result(self.path, Outcome.REMOVED)

    def _unhide(self, private: bytes, name: bytes) -> Optional[OSError]:
        """Gives the private name's inode its name back. Where that is taken by now the file is left: a later sweep of
        the directory settles it, and removes it only when it is dead."""
        try:
            try:
                _sys.rename_noreplace(self._dirfd, private, name)
            except OSError as e:
                if e.errno != errno.EINVAL:
                    raise
                os.link(private, name, src_dir_fd=self._dirfd, dst_dir_fd=self._dirfd, follow_symlinks=False)
                os.unlink(private, dir_fd=self._dirfd)
        except FileNotFoundError:
            pass  # another remover has settled it
        except OSError as e:
            return e
        return None


def unopened(path: str, error: Exception) -> Result:
    """The Result of a sock-file that could not be opened."""
    if isinstance(error, NotSocket):
        return Result(path, Outcome.REPLACED, Reason.NOT_SOCKET)
    return refusal(path, "open", error)


def is_private(name: bytes) -> bool:
    """Whether a base name is one that a removal uses for a moment."""
    return name.startswith(PRIVATE_PREFIX)


class Entry(NamedTuple):
    """A directory entry that is, or may be, a sock-file or a directory."""

    name: bytes
    number: int
    directory: bool
    socket: bool

    def inode(self) -> int:
        return self.number


def entries(dirfd: int) -> Iterator[Entry]:
    """The sock-files and directories of a directory, by the types that the listing has."""
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        with os.scandir(fd) as listing:
            for e in listing:
                try:
                    directory = e.is_dir(follow_symlinks=False)
                    if directory or not (e.is_file(follow_symlinks=False) or e.is_symlink()):
                        yield Entry(os.fsencode(e.name), e.inode(), directory, not directory)
                except OSError:
                    continue  # the filesystem has no types in its listings, and it is gone
    finally:
        os.close(fd)


def _absent_name() -> bytes:
    """A name that no entry has: 128 random bits."""
    return PRIVATE_PREFIX + base64.b32encode(os.urandom(16)).rstrip(b"=")


@contextmanager
def _pinned(dirfd: int, name: bytes) -> Iterator[_Pin]:
    fd = _sys.open_pin(name, dirfd)
    try:
        yield _Pin(fd, os.fstat(fd))
    finally:
        os.close(fd)


# The ways of saying that there are no handles here, and a pin has to do: the filesystem, a kernel before 6.5 that
# does not know AT_HANDLE_FID, and the seccomp filters of containers.
_NO_HANDLES = (errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS)


def _identify(pin: _Pin) -> Identity:
    handle: Optional[bytes] = None
    try:
        try:
            handle = _sys.file_handle(pin.fd)
        except OSError as e:
            # Elsewhere than on overlay that flag can give a made-up handle whose generation never changes.
            if e.errno != errno.EOPNOTSUPP or _sys.filesystem_type(pin.fd) != _sys.OVERLAYFS_SUPER_MAGIC:
                raise
            handle = _sys.file_handle(pin.fd, _sys.AT_HANDLE_FID)
    except OSError as e:
        if e.errno not in _NO_HANDLES:
            raise
    return Identity(pin.stat.st_dev, pin.stat.st_ino, handle)
