"""Looks for live sockets that are lost to races: a server rebinds one path within microseconds, again and again, and
a remover is after its sock-files all the time. The same is done with a control, a way of removal that is known to
lose live sockets now and then: a harness that does not catch that has proved nothing.

    python3 stress.py LIVES [DIR...]

It is test/stress of this repository for the removal in Python: a server and a remover are two processes, which tell
each other by shared memory where they are.
"""

import errno
import fcntl
import mmap
import os
import random
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from sockwatch import NotSocket, Outcome, SockFile, State, _sys

SIOCUNIXFILE = 0x89E0
REBIND_PATIENCE = CLAIM_PATIENCE = 0.005
LOSS_PATIENCE = 2.0
LOSS_TRIES = 1000
LIFE_SPAN = 20e-6
WATCHERS = 16

# Counters in the shared page: the number of the life that was last bound, claimed by the remover, ended; the end of
# it all; lives in which the server's file was removed while the socket was open; files that were removed; what else
# it came to.
BOUND, CLAIMED, DEAD, OVER, LIVES, LOSSES, REMOVALS, KEPT = range(8)


class Board:
    def __init__(self):
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def __getitem__(self, i):
        return struct.unpack_from("Q", self._page, 8 * i)[0]

    def __setitem__(self, i, value):
        struct.pack_into("Q", self._page, 8 * i, value)

    def wait(self, i, n, patience):
        """Until the counter has reached n. It gives up after that many seconds, and when all is over."""
        start = time.monotonic()
        while self[i] < n:
            gone = time.monotonic() - start
            if self[OVER] or gone > patience:
                return False
            if gone > 1e-4:
                time.sleep(1e-6)  # it may be waiting for this processor
        return True


def spin(seconds):
    until = time.perf_counter() + random.random() * seconds
    while time.perf_counter() < until:
        pass


def unlink(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def bind(path):
    s = socket.socket(socket.AF_UNIX)
    start = time.monotonic()
    while True:
        try:
            s.bind(path)
            return s
        except OSError as e:
            if e.errno != errno.EADDRINUSE:
                raise
        if time.monotonic() - start > REBIND_PATIENCE:
            unlink(path)  # what the last life has left for a remover who is slow


def pin(s, path):
    """Of the server's own sock-file, whatever has its name. Without CAP_NET_ADMIN it is the live one with the name."""
    try:
        return fcntl.ioctl(s, SIOCUNIXFILE)
    except PermissionError:
        pass
    start, tries = time.monotonic(), 0
    while time.monotonic() - start < LOSS_PATIENCE or tries < LOSS_TRIES:  # the machine may have been elsewhere all that time
        tries += 1
        try:
            with SockFile(path) as f:
                if f.probe()[0] is State.ALIVE:
                    return os.dup(_sys.open_pin(os.fsencode(path)))
        except (OSError, NotSocket):
            pass
    return None


def serve(board, path, claimed, lives):
    for life in range(1, lives + 1):
        if board[OVER]:
            break
        s = bind(path)
        own = pin(s, path)
        s.listen(1)
        board[BOUND] = life
        if claimed:
            board.wait(CLAIMED, life, CLAIM_PATIENCE)
        spin(LIFE_SPAN)
        if own is None or os.fstat(own).st_nlink == 0:
            board[LOSSES] += 1
        if own is not None:
            os.close(own)
        board[LIVES] += 1
        end = random.randrange(4)
        if end == 0:  # a server that cleans up
            unlink(path)
        s.close()
        board[DEAD] = life
        if end == 1:  # one that was killed, and removes what is in its way when it starts
            unlink(path)
    board[OVER] = 1


def remove(board, path, claimed, control):
    life = 0
    while not board[OVER]:
        if claimed:
            if not board.wait(BOUND, life + 1, 1):
                continue
            life = board[BOUND]
        try:
            f = SockFile(path)
        except FileNotFoundError:
            continue
        with f:
            if claimed:
                if f.probe()[0] is not State.ALIVE:
                    continue
                board[CLAIMED] = life
                if not board.wait(DEAD, life, 1):
                    continue
                spin(1e-5)
            removed = check_then_unlink(path) if control else remove_as_sockwatch(f)
            board[REMOVALS if removed else KEPT] += 1


def remove_as_sockwatch(f):
    result = f.remove()
    assert result.outcome.ok, result
    return result.outcome is Outcome.REMOVED


def check_then_unlink(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        if s.connect_ex(path) != errno.ECONNREFUSED:
            return False
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def trial(place, claimed, control, lives, seconds):
    """Runs one server against one remover. Returns the Board."""
    directory = tempfile.mkdtemp(prefix="stress", dir=place)
    # Everybody who watches the directory is told of a new file in the moment in which it is there and its socket is
    # not yet bound: so that lasts some 25 µs. On its own it is over in less than one.
    watchers = []
    board = Board()
    pids = []
    try:
        try:
            while len(watchers) < WATCHERS:
                watchers.append(_sys.inotify_init())
                _sys.inotify_add(watchers[-1], os.fsencode(directory), _sys.IN_CREATE)
        except OSError as e:
            if e.errno != errno.EMFILE:  # a user can have so many of them, and may have them elsewhere
                raise
        path = directory + "/server.sock"
        for work, args in ((serve, (claimed, lives)), (remove, (claimed, control))):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    signal.alarm(int(seconds) + 600)
                    work(board, path, *args)
                    status = 0
                except BaseException:
                    import traceback

                    traceback.print_exc()
                finally:
                    board[OVER] = 1
                    os._exit(status)
            pids.append(pid)
        pidfd = _sys.pidfd_open(pids[0])
        select.select([pidfd], [], [], seconds)
        os.close(pidfd)
        board[OVER] = 1
        statuses = [os.waitpid(pid, 0)[1] for pid in pids]
        if statuses != [0, 0]:
            raise RuntimeError("server and remover ended with %s" % statuses)
        return board
    finally:
        for w in watchers:
            os.close(w)
        shutil.rmtree(directory, ignore_errors=True)


def run(places, lives, seconds):
    """All trials. Returns how many lives lost their file to sockwatch, and to the control."""
    lost = {False: 0, True: 0}
    for place in places:
        for control in (True, False):
            for claimed in (True, False):
                b = trial(place, claimed, control, lives, seconds)
                print("%-10s %-18s %-10s %8d lives %8d removals %8d kept %5d losses" % (
                    place, "check-then-unlink" if control else "sockwatch", "seen alive" if claimed else "from name",
                    b[LIVES], b[REMOVALS], b[KEPT], b[LOSSES]), flush=True)
                lost[control] += b[LOSSES]
    return lost[False], lost[True]


if __name__ == "__main__":
    ours, controls = run(sys.argv[2:] or [tempfile.gettempdir(), "/dev/shm"], int(sys.argv[1]), 3600)
    sys.exit(1 if ours or not controls else 0)
