"""Kill a process, and remove the sock-files that it leaves behind: whatever happened before, and never one that is
alive.

Nothing here raises, but for what is no Exception (KeyboardInterrupt), and then the process is killed and its files
are removed first. Nothing here reaps: who has started the process waits for it as ever.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any, Iterable, List, Optional, Union

from . import claims
from .client import Client, DaemonError
from .outcome import Outcome, Reason, Result
from .process import Process, stat_of
from .remove import SockFile, unopened

__all__ = ["Killed", "Tracked", "hard_kill", "tracked", "unlink_bind_addrs"]

# Seconds after a process's end at which a file that still probes alive is probed again. That the process is gone does
# not prove its socket dead: io_uring lets go of one up to 60 ms later, the garbage collector of descriptors in flight
# some 8 ms.
LADDER = (0.001, 0.005, 0.02, 0.06, 0.2)

# Seconds that a process may take to end after SIGKILL. One in uninterruptible sleep can take for ever.
_AFTER_SIGKILL = 10.0

# Seconds that the daemon may take to tell what it knows.
_DAEMON_PATIENCE = 0.5

_Many = Union[None, str, bytes, "os.PathLike[str]", Iterable[Any]]


@dataclass
class Killed:
    """What a hard kill came to."""

    pid: int = 0
    ended: bool = False  # the process is gone
    killed: bool = False  # SIGKILL was needed
    exit: str = ""  # how it ended, as far as it is known
    error: Optional[Exception] = None  # the first thing that went wrong; what follows was done all the same
    files: List[Result] = field(default_factory=list)


def hard_kill(
    proc_or_pid: Any,
    terminate_after: float = 1.6,
    bind_addrs: _Many = (),
    name: Optional[str] = None,
    bindspace: _Many = None,
    convention: _Many = None,
    preset: Optional[str] = None,
) -> Killed:
    """Ends a process: SIGTERM, so many seconds for it to end, SIGKILL; then removes its sock-files, always. With
    terminate_after of 0 or less it is SIGKILL at once.

    The process is a pid or what has one: a subprocess.Popen, a multiprocessing.Process, those of trio and asyncio. It
    is not reaped: call its wait or join as ever. One that has ended already is no error.

    What it holds is looked at before each signal, so its files need not be named. Where a daemon runs, what that has
    claimed for the process is looked for, too. bind_addrs are further addresses: paths, (directory, name) pairs, and
    what has such an unwrap(); addresses of other kinds are passed over. With a convention, such as
    "{name}@{pid}.sock", the names that fit it are tried in the bindspaces; preset="tractor" is both.

    It waits for up to terminate_after, ten seconds for the end after SIGKILL, and 0.2 seconds if a file stays
    alive."""
    report = Killed()
    try:
        pid, process = _open(proc_or_pid)
    except Exception as e:
        pid, process, report.error = _number(proc_or_pid), None, e
    report.pid = pid
    t = Tracked(pid, process, name, bind_addrs, bindspace, convention, preset)
    try:
        if process is None:
            report.ended = report.error is None or isinstance(report.error, ProcessLookupError)
        else:
            _end(t, process, terminate_after, report)
    except Exception as e:
        report.error = report.error or e
    except BaseException:
        if process is not None:
            _sigkill(process)
            process.wait(_AFTER_SIGKILL)
        t.unlink()
        raise
    finally:
        try:
            report.files = t.unlink()
            if process is not None:
                report.exit = process.how_ended()
        finally:
            t.close()
    return report


def unlink_bind_addrs(
    pid: int,
    name: Optional[str] = None,
    bind_addrs: _Many = (),
    bindspace: _Many = None,
    convention: _Many = None,
    preset: Optional[str] = None,
) -> List[Result]:
    """Removes the sock-files of a process that somebody else has killed: what a runtime calls at the end of its own
    hard kill, whatever happened before, and as often as it likes. The parameters are those of hard_kill. It says what
    became of each address, and of each guess by a convention that exists.

    The process is gone, so nobody can be asked what it held: tracked takes the snapshot before."""
    t = Tracked(_number(pid), None, name, bind_addrs, bindspace, convention, preset)
    try:
        return t.unlink()
    finally:
        t.close()


def tracked(
    pid: Any,
    name: Optional[str] = None,
    bind_addrs: _Many = (),
    bindspace: _Many = None,
    convention: _Many = None,
    preset: Optional[str] = None,
) -> "Tracked":
    """Looks at what a process holds, before somebody else kills it:

        with sockwatch.tracked(proc.pid) as t:
            ...  # kill it
            t.unlink()

    The parameters are those of hard_kill. A daemon that runs and does not answer is waited for half a second."""
    try:
        number, process = _open(pid)
    except Exception as e:
        t = Tracked(_number(pid), None, name, bind_addrs, bindspace, convention, preset)
        t.error = t.error or e
        return t
    return Tracked(number, process, name, bind_addrs, bindspace, convention, preset)


class Tracked:
    """The sock-files of one process: see tracked. It has descriptors until close."""

    def __init__(
        self,
        pid: int,
        process: Optional[Process],
        name: Optional[str],
        bind_addrs: _Many,
        bindspace: _Many,
        convention: _Many,
        preset: Optional[str],
    ) -> None:
        self.pid = pid
        self.error: Optional[Exception] = None  # the first reason why something could not be looked at
        self._process = process
        self._files: "dict[object, SockFile]" = {}
        self._paths: "dict[bytes, bool]" = {}  # True: a guess, of which nothing is told where there is no file
        self._results: List[Result] = []
        self._name(name, bind_addrs, bindspace, convention, preset)
        self.look()
        self._ask_daemon()

    @property
    def paths(self) -> List[str]:
        """Of the sock-files that it was found to hold."""
        return [f.path for f in self._files.values()]

    def look(self) -> None:
        """Looks again at what the process holds, and adds it. Once it has ended there is nothing more to see."""
        if self._process is None:
            return
        try:
            for f in claims.held(self._process, self._dirs):
                self._keep(f)
        except Exception as e:
            if not self._process.ended:
                self.error = self.error or e

    def unlink(self) -> List[Result]:
        """Removes those files that are dead. Never raises; call it as often as you like. It takes 200 ms beyond the
        work itself, and only when a file is alive."""
        results = list(self._results)
        try:
            files, opened = list(self._files.values()), []
            known = set(self._files)
            for path, guess in self._paths.items():
                try:
                    f = SockFile(path)
                except Exception as e:
                    if not guess:
                        results.append(unopened(os.fsdecode(path), e))
                    continue
                opened.append(f)
                if f.identity not in known:
                    known.add(f.identity)
                    files.append(f)
            try:
                results += _remove(files)
            finally:
                for f in opened:
                    f.close()
        except Exception as e:
            results.append(Result("", Outcome.FAILED, Reason.NONE, e))
        return results

    def close(self) -> None:
        """Gives up the descriptors."""
        for f in self._files.values():
            f.close()
        self._files.clear()
        if self._process is not None:
            self._process.close()
            self._process = None

    def __enter__(self) -> "Tracked":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, f: SockFile) -> None:
        if f.identity in self._files:
            f.close()
        else:
            self._files[f.identity] = f

    def _name(
        self, name: Optional[str], bind_addrs: _Many, bindspace: _Many, convention: _Many, preset: Optional[str]
    ) -> None:
        """Takes what the caller has named. What makes no sense is a Result and no exception."""
        dirs: List[bytes] = []
        patterns: List[str] = []

        def each(values: _Many, take: Any) -> None:
            try:
                for value in _several(values):
                    try:
                        take(value)
                    except Exception as e:
                        self._results.append(Result(repr(value), Outcome.FAILED, Reason.NONE, e))
            except Exception as e:
                self._results.append(Result(repr(values), Outcome.FAILED, Reason.NONE, e))

        def take_address(value: Any) -> None:
            path = _path(value)
            if path is not None:
                self._paths[path] = False

        def take_preset(value: Any) -> None:
            spaces, conventions = claims.preset(value)
            dirs.extend(map(os.fsencode, spaces))
            patterns.extend(conventions)

        each(bind_addrs, take_address)
        each(bindspace, lambda value: dirs.append(os.fsencode(value)))
        each(convention, lambda value: patterns.append(str(value)))
        each(preset, take_preset)
        self._dirs = tuple(dirs)

        def take_pattern(pattern: str) -> None:
            base = claims.convention(pattern)(name, self.pid)
            if base is not None:
                for d in dirs:
                    self._paths.setdefault(os.path.join(d, os.fsencode(base)), True)

        each(patterns, take_pattern)

    def _ask_daemon(self) -> None:
        """Takes what the daemon has claimed for the process. Its paths are as the process sees them, so only of one
        that has our root directory; the daemon removes those of others."""
        if self._process is None:
            return
        try:
            identity = self._process.identity
            for link in ("root", "ns/mnt"):
                if os.readlink("/proc/%d/%s" % (self.pid, link)) != os.readlink("/proc/self/" + link):
                    return
            with Client(timeout=_DAEMON_PATIENCE) as c:
                owned = [o for o in c.list() if o.process == identity]
        except (DaemonError, OSError):
            return
        except Exception as e:
            self.error = self.error or e
            return
        for o in owned:
            for claim in o.claims:
                if not claim.pending:
                    try:
                        self._keep(SockFile(claim.path))
                    except Exception:
                        continue  # gone by now, or not for us: then the daemon's business


def _several(values: _Many) -> "Iterable[Any]":
    """One or several: a path alone is not a sequence of its letters, nor is a pair of directory and name two
    addresses."""
    if values is None:
        return ()
    if isinstance(values, (str, bytes, os.PathLike)) or callable(getattr(values, "unwrap", None)):
        return (values,)
    return values


def _path(address: Any) -> Optional[bytes]:
    """The path of an address, None of one that has none: abstract, TCP."""
    unwrap = getattr(address, "unwrap", None)
    if callable(unwrap):
        address = unwrap()
    if isinstance(address, (tuple, list)):
        if len(address) != 2 or isinstance(address[1], int):
            return None
        path = os.path.join(os.fsencode(address[0]), os.fsencode(address[1]))
    else:
        path = os.fsencode(address)
    if not path or path.startswith(b"\0"):
        return None
    return path


def _number(proc_or_pid: Any) -> int:
    """The pid, 0 where there is none."""
    try:
        pid = proc_or_pid if isinstance(proc_or_pid, int) else getattr(proc_or_pid, "pid", None)
    except Exception:  # a multiprocessing.Process that was closed
        return 0
    return pid if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 else 0


def _open(proc_or_pid: Any) -> "tuple[int, Optional[Process]]":
    """The pid, and the process unless it is known to have ended."""
    pid = _number(proc_or_pid)
    if pid == 0:
        raise ValueError("%r is no process" % (proc_or_pid,))
    if pid == 1:
        raise ValueError("process 1 is the init")
    if pid == os.getpid():
        raise ValueError("process %d is this one" % pid)
    if isinstance(proc_or_pid, int):
        return pid, Process(pid)
    for known in ("returncode", "exitcode"):
        if getattr(proc_or_pid, known, None) is not None:
            return pid, None  # it was reaped, and its pid may be another's
    process = Process(pid)
    if isinstance(proc_or_pid, subprocess.Popen) and int(stat_of(pid)[1]) != os.getpid():
        process.close()
        raise ProcessLookupError(3, "process %d is no child of ours: somebody else has reaped it" % pid)
    return pid, process


def _end(t: Tracked, process: Process, terminate_after: float, report: Killed) -> None:
    """Ends the process. ProcessLookupError of a signal means that it has just ended."""
    if terminate_after > 0 and not process.ended:
        try:
            process.signal(signal.SIGTERM)
        except ProcessLookupError:
            pass
        except OSError as e:
            report.error = e
        process.wait(terminate_after)
    if not process.ended:
        t.look()
        error = _sigkill(process)
        report.error = report.error or error
        report.killed = error is None
        if error is None and not process.wait(_AFTER_SIGKILL):
            late = "process %d has not ended %g s after SIGKILL" % (process.pid, _AFTER_SIGKILL)
            report.error = report.error or TimeoutError(late)
    report.ended = process.ended


def _sigkill(process: Process) -> Optional[Exception]:
    try:
        process.signal(signal.SIGKILL)
    except ProcessLookupError:
        pass
    except OSError as e:
        return e
    return None


def _remove(files: "list[SockFile]") -> List[Result]:
    """Removes the files, those that are alive again and again."""
    results: List[Any] = [None] * len(files)
    waiting = list(range(len(files)))
    start = time.monotonic()
    for until in LADDER + (None,):
        for i in waiting:
            try:
                results[i] = files[i].remove()
            except Exception as e:
                results[i] = Result(files[i].path, Outcome.FAILED, Reason.NONE, e)
        waiting = [i for i in waiting if results[i].outcome is Outcome.ALIVE]
        if not waiting or until is None:
            break
        # The kernel reports the end of a process, and nothing when the last reference to its socket goes.
        time.sleep(max(0.0, start + until - time.monotonic()))
    if waiting:
        visible = claims.held_by_anybody([files[i] for i in waiting])
        for i, seen in zip(waiting, visible):
            results[i] = Result(files[i].path, Outcome.ALIVE, Reason.HOLDER if seen else Reason.HOLDER_NOT_VISIBLE)
    return results
