"""The pytest plugin's second process: it sees sock-files being made, looks at once who made them, and tells later
which were left behind.

It is a process of its own and no thread, so that nothing changes for the tests: no thread when they fork, no lock, no
wait for the interpreter. It is no child of theirs either, which they could find or wait for: it is started by a child
that ends at once. It ends with the process that it is for.

A channel of datagrams leads here, on which the kernel tells who has sent each. What comes in is one letter and its
argument:

    B path        who sends this is about to bind path (also from forked children)
    W [dir, n]    watch dir and n levels below; what is there now is none of our business
    N [dir, n]    as W, but what is there now was made by the test that runs
    S             say when all that has happened until now is known
    L             tell what was left behind, and forget it
    F             as L, at the end of all: also what was not due yet, and what is nobody's

The last five have a number behind the letter, which the answer begins with. A page of shared memory says, without a
wake-up of anybody, whether there is anything to ask.
"""

from __future__ import annotations

import array
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import termios
import time
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Tuple

from . import _sys, claims
from .outcome import Outcome, State
from .process import Process, comm_of, descendants
from .remove import Identity, NotSocket, SockFile, entries, is_private

# The shared page: the observer has taken events and is not done with them; how many files it has an eye on; and,
# written by the tests' process, the number of the test that runs, 0 for none.
BUSY, OPEN, TEST = 0, 4, 8

# What xdist puts into the environment of all that its workers start.
WORKER, RUN = "PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"

GRACE = 0.02  # seconds for a thread or process that has closed its socket to remove the file
DYING = 0.2  # seconds for an owner that has closed its socket to end

_ANNOUNCED = 5.0  # seconds after which who was about to bind has failed to
_MOST_WATCHES = 4096
_MASK = _sys.IN_CREATE | _sys.IN_MOVED_TO | _sys.IN_ONLYDIR


def unread(inotify: int) -> bool:
    """Whether events wait on an inotify descriptor. Without one nobody knows."""
    if inotify < 0:
        return True
    size = array.array("i", [0])
    fcntl.ioctl(inotify, termios.FIONREAD, size)
    return size[0] > 0


class _Seen:
    """A sock-file that appeared while we looked."""

    def __init__(self, file: SockFile, test: int) -> None:
        self.file = file
        self.test = test
        self.mine: Optional[bool] = None  # whether a descendant of the worker bound it; None: it could not be told
        self.worker = ""  # of xdist, whose descendant it was seen to be, if not ours
        self.pid = 0  # of who did, 0 where that is not known
        self.comm = ""
        self.process: Optional[Process] = None  # the same, if it is not the worker itself

    def owned_by(self, pid: int, worker: int, mine: bool) -> None:
        self.pid, self.mine, self.comm = pid, mine, comm_of(pid)
        if pid != worker:
            try:
                self.process = Process(pid)
            except OSError:
                pass  # it has ended and was reaped

    def close(self) -> None:
        self.file.close()
        if self.process is not None:
            self.process.close()


def _inode(path: bytes) -> int:
    """In place of a watch's number."""
    st = os.stat(path)
    return st.st_dev << 64 | st.st_ino


class Observer:
    def __init__(self, worker: int, channel: socket.socket, inotify: int, page: mmap.mmap, marks: Dict[str, str]) -> None:
        self._worker = worker
        self._channel = channel
        # -1: a user can have so many of them (fs.inotify.max_user_instances). Then directories are listed.
        self._inotify = inotify
        self._page = page
        self._marks = marks  # in the environment of all that a test starts
        self._watches: Dict[int, Tuple[bytes, int]] = {}
        self._announced: Dict[bytes, Tuple[int, float]] = {}  # who is about to bind, and when it said so
        self._before: "set[Identity]" = set()
        self._seen: Dict[Identity, _Seen] = {}
        self._calls: Deque[bytes] = deque()
        self._limited = False

    def run(self) -> None:
        worker = Process(self._worker)
        poll = select.poll()
        for fd in (worker.fileno(), self._channel.fileno(), self._inotify):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if worker.fileno() in ready:
                return
            self._catch_up()
            while self._calls:
                self._answer(self._calls.popleft())

    # Events.

    def _catch_up(self) -> None:
        """Takes all that has happened. Who binds says so before the file is there, so the messages are taken after
        the events."""
        self._set(BUSY, 1)
        try:
            while True:
                events = b""
                try:
                    if self._inotify >= 0:
                        events = os.read(self._inotify, 64 << 10)
                except BlockingIOError:
                    pass
                self._take_messages()
                if not events:
                    break
                self._take_events(events)
            if self._inotify < 0:
                self._list_all()
        finally:
            self._set(OPEN, sum(1 for s in self._seen.values() if s.mine is not False))
            self._set(BUSY, 0)

    def _set(self, at: int, value: int) -> None:
        self._page[at : at + 4] = struct.pack("I", value)

    def _take_messages(self) -> None:
        while True:
            try:
                message, ancillary, _, _ = self._channel.recvmsg(64 << 10, 256, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if not message:
                sys.exit(0)
            if message[:1] != b"B":
                self._calls.append(message)
                continue
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    directory, name = os.path.split(message[1:])
                    path = os.path.join(os.path.realpath(directory), name)
                    self._announced[path] = struct.unpack_from("i", data)[0], time.monotonic()

    def _take_events(self, events: bytes) -> None:
        at = 0
        while at < len(events):
            wd, mask, _, size = struct.unpack_from("iIII", events, at)
            name = events[at + 16 : at + 16 + size].partition(b"\0")[0]
            at += 16 + size
            if mask & _sys.IN_Q_OVERFLOW:
                self._list_all()
            elif mask & _sys.IN_IGNORED:
                self._watches.pop(wd, None)
            elif wd in self._watches:
                path, depth = self._watches[wd]
                if not mask & _sys.IN_ISDIR:
                    self._file(path, name, new=True)
                elif depth > 0:
                    self._watch(os.path.join(path, name), depth - 1, new=True)

    def _watch(self, path: bytes, depth: int, new: bool) -> None:
        """Watches a directory and some levels below. What is in it now is new, or was there before."""
        if len(self._watches) >= _MOST_WATCHES:
            self._limited = True
            return
        try:
            wd = _sys.inotify_add(self._inotify, path, _MASK) if self._inotify >= 0 else _inode(path)
        except OSError as e:
            self._limited = self._limited or e.errno == errno.ENOSPC
            return
        known = self._watches.get(wd)
        if known is not None and known[1] >= depth:
            return
        self._watches[wd] = (path, depth)
        self._list(path, depth, new)

    def _list_all(self) -> None:
        for path, depth in list(self._watches.values()):
            self._list(path, depth, new=True)

    def _list(self, path: bytes, depth: int, new: bool) -> None:
        try:
            fd = _sys.open_directory(path)
        except OSError:
            return
        try:
            for e in entries(fd):
                if e.socket:
                    self._file(path, e.name, new)
                elif depth > 0:
                    self._watch(os.path.join(path, e.name), depth - 1, new)
        except OSError:
            pass
        finally:
            os.close(fd)

    def _file(self, directory: bytes, name: bytes, new: bool) -> None:
        if is_private(name):
            return
        path = os.path.join(directory, name)
        try:
            file = SockFile(path)
        except (OSError, NotSocket):
            return  # gone, or none
        if file.identity in self._before:
            file.close()
            return
        if not new:
            self._before.add(file.identity)
            file.close()
            return
        known = self._seen.get(file.identity)
        if known is not None:  # it was renamed, or linked
            if known.file.present():
                file.close()
            else:
                file.seen_alive = known.file.seen_alive
                known.file.close()
                known.file = file
            return
        seen = _Seen(file, struct.unpack_from("I", self._page, TEST)[0])
        self._seen[file.identity] = seen
        try:
            self._find_owner(seen, path)
        except OSError:
            pass

    # Who it was.

    def _find_owner(self, seen: _Seen, path: bytes) -> None:
        announced, at = self._announced.pop(path, (0, 0.0))
        if time.monotonic() - at > _ANNOUNCED:
            announced = 0  # that bind has failed
        # The probe waits for the end of a bind that is under way: before, nobody has the socket.
        state, _ = seen.file.probe()
        family = descendants(self._worker)
        ours = claims.holders([seen.file], family)[0] if state is not State.DEAD else []
        if ours or announced:
            seen.owned_by(announced if announced in ours or not ours else ours[0], self._worker, mine=True)
            return
        if state is State.DEAD:
            return
        own = set(family)
        others = [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) not in own]
        for pid in claims.holders([seen.file], others)[0]:
            worker = self._worker_of(pid)
            seen.owned_by(pid, self._worker, mine=worker != "" and worker == self._marks.get(WORKER))
            seen.worker = worker
            return

    def _worker_of(self, pid: int) -> str:
        """The worker of this run of xdist by whose tests a process was started, by its environment; "" for none."""
        try:
            with open("/proc/%d/environ" % pid, "rb") as f:
                environment = dict(line.partition(b"=")[::2] for line in f.read().split(b"\0"))
        except OSError:
            return ""
        run = os.fsencode(self._marks.get(RUN, ""))
        if not run or environment.get(os.fsencode(RUN)) != run:
            return ""
        return os.fsdecode(environment.get(os.fsencode(WORKER), b""))

    # What is left.

    def _answer(self, call: bytes) -> None:
        kind, _, rest = call.partition(b" ")
        number, _, argument = rest.partition(b" ")
        replies: List[Dict[str, Any]] = []
        if kind in (b"W", b"N"):
            path, depth = json.loads(argument)
            self._watch(os.path.realpath(os.fsencode(path)), depth, new=kind == b"N")
            self._catch_up()
        elif kind in (b"L", b"F"):
            options = json.loads(argument)
            replies = self._look(final=kind == b"F", **options)
        for reply in replies:
            self._send(number, reply)
        self._send(number, {"done": True, "limited": self._limited})

    def _send(self, number: bytes, reply: Dict[str, Any]) -> None:
        self._channel.send(number + b" " + json.dumps(reply).encode(), socket.MSG_NOSIGNAL)

    def _look(self, final: bool, reap: bool, private: str, xdist: bool) -> List[Dict[str, Any]]:
        """Files that were left behind. Those whose owner is not known are a test's only if nobody else can have made
        them."""
        left = []
        for seen in self._dead(final):
            here = os.fsencode(private) if private else b""
            secluded = bool(here) and os.fsencode(seen.file.path).startswith(here + b"/")
            blamed = seen.test > 0 and (seen.mine or (seen.mine is None and (secluded or not xdist)))
            if not blamed and not final:
                continue
            reply: Dict[str, Any] = {
                "test": seen.test if blamed else 0,
                "during": seen.test,
                "worker": seen.worker,
                "path": seen.file.path,
                "identity": [seen.file.identity.dev, seen.file.identity.ino, (seen.file.identity.handle or b"").hex()],
                "owner": self._describe(seen),
                "stranger": seen.mine is False,
            }
            # Another worker may know whose it is. So under xdist what is nobody's is left to who knows what all say.
            if reap and (blamed or (seen.mine is None and not xdist)):
                result = seen.file.remove()
                if result.outcome in (Outcome.REMOVED, Outcome.GONE):
                    reply["removed"] = True
                else:
                    reply["kept"] = str(result)
            left.append(reply)
            del self._seen[seen.file.identity]
            self._before.add(seen.file.identity)  # told once
            seen.close()
        self._catch_up()
        return left

    def _describe(self, seen: _Seen) -> str:
        if not seen.pid:
            return "it is not known who bound it"
        if seen.pid == self._worker:
            return "bound by the test process itself, %d, and closed" % seen.pid
        who = "bound by process %d" % seen.pid + (" (%s)" % seen.comm if seen.comm else "")
        if seen.process is None:
            return who + ", which has ended"
        how = seen.process.how_ended()
        if how:
            return "%s, %s" % (who, how)
        return who + (", which has ended" if seen.process.ended else ", which still runs")

    def _dead(self, final: bool) -> List[_Seen]:
        """Files that are there and dead, and whose owner has had the time to remove them."""
        suspects = []
        for identity, seen in list(self._seen.items()):
            if not final and seen.mine is False:
                continue
            state, _ = seen.file.probe()
            if state is State.DEAD:
                suspects.append(seen)
            elif not seen.file.present():
                del self._seen[identity]
                seen.close()
        start = time.monotonic()
        dead = []
        for seen in suspects:
            if seen.process is not None:
                seen.process.wait(max(0.0, start + DYING - time.monotonic()))
            while seen.file.present() and time.monotonic() < start + (DYING if self._may_remove(seen) else GRACE):
                time.sleep(0.002)
            if not seen.file.present():
                del self._seen[seen.file.identity]
                seen.close()
            elif final or seen.process is None or seen.process.ended:
                dead.append(seen)
        return dead

    def _may_remove(self, seen: _Seen) -> bool:
        """Whether one of the processes that tests have started may be about to remove a file whose owner is not
        known."""
        return seen.mine is None and len(descendants(self._worker)) > 1


def start(marks: Dict[str, str]) -> "tuple[socket.socket, int, mmap.mmap]":
    """Starts the observer of this process. The channel to it, the inotify descriptor that it reads, and the page.
    OSError."""
    import subprocess

    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    its.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    memory = os.memfd_create("sockwatch", os.MFD_CLOEXEC)
    try:
        inotify = _sys.inotify_init()
    except OSError:
        inotify = -1
    try:
        os.ftruncate(memory, mmap.PAGESIZE)
        page = mmap.mmap(memory, mmap.PAGESIZE)
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        code = "import sys; sys.path.insert(0, sys.argv[1]); from sockwatch._observer import main; main()"
        fds = [its.fileno(), inotify, memory]  # in the order in which main takes them
        launcher = subprocess.run(
            # -S, so that nothing of what measures or patches the tests is loaded there.
            [sys.executable, "-I", "-S", "-c", code, package, str(os.getpid()), json.dumps(marks)] + list(map(str, fds)),
            pass_fds=[fd for fd in fds if fd >= 0],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env={k: v for k, v in os.environ.items() if k in ("HOME", "XDG_DATA_HOME", "LD_LIBRARY_PATH")},
        )
        if launcher.returncode != 0:
            raise OSError(errno.ECHILD, "sockwatch's observer did not start")
        return ours, inotify, page
    except BaseException:
        ours.close()
        if inotify >= 0:
            os.close(inotify)
        raise
    finally:
        its.close()
        os.close(memory)


def main() -> None:
    if os.fork() != 0:
        os._exit(0)
    worker, marks, channel, inotify, memory = sys.argv[2:]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    page = mmap.mmap(int(memory), mmap.PAGESIZE)
    os.close(int(memory))
    observer = Observer(int(worker), socket.socket(fileno=int(channel)), int(inotify), page, json.loads(marks))
    try:
        observer.run()
    except (OSError, KeyboardInterrupt):
        os._exit(1)
    os._exit(0)
