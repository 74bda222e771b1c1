"""pytest plugin: names the tests that leave dead sock-files behind.

    pytest -p sockwatch.pytest_plugin                     (not needed where the package is installed)
    --sockwatch=warn|error|off                            a warning, an error at the teardown of the test, or nothing
    --sockwatch-reap                                      removes them, too
    sockwatch_bindspaces = DIR...                         (ini) where to look, instead of the defaults
    @pytest.mark.sockwatch_bindspaces("DIR", ...)         where else to look, from this test on

It looks in $XDG_RUNTIME_DIR and in pytest's own temporary directories, two levels deep below these and below each
test's. A file that was removed in time is named nowhere, nor is one that is alive. A file is its test's in which it
appeared. Where somebody else is seen to have bound it, and under xdist, where tests of other workers run at the same
time, also where nobody was seen, it is listed as unattributed.

In the tests' process it adds an audit hook (sys.addaudithook), which tells of sockets that it or its forks bind, and
two descriptors; who binds in other processes is seen by a process beside, see _observer.
"""

from __future__ import annotations

import json
import os
import select
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Dict, Generator, List, Optional

import pytest

if TYPE_CHECKING:
    import socket

_MODES = ("warn", "error", "off")
_BELOW = 2  # levels below a bindspace that are looked at
_OWN = 3  # and below pytest's temporary directory, whose first level is a directory for each test
_PATIENCE = 60.0  # seconds for an answer of the observer, on a machine that is overloaded
_BEFORE_KILL = 0.2

_Leak = Dict[str, Any]


class SockFileLeakWarning(pytest.PytestWarning):
    """A test has left a dead sock-file behind."""


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("sockwatch", "sock-files that are left behind")
    group.addoption(
        "--sockwatch",
        choices=_MODES,
        default="warn",
        help="of a test that leaves a dead sock-file behind: warn (default), error, off",
    )
    group.addoption("--sockwatch-reap", action="store_true", help="remove the sock-files that tests leave behind")
    parser.addini(
        "sockwatch_bindspaces",
        "directories to look for sock-files in, two levels deep; $NAME and ~ are expanded"
        " (default: $XDG_RUNTIME_DIR and the temporary directories of pytest)",
        type="linelist",
        default=None,
    )


def pytest_configure(config: Any) -> None:
    config.addinivalue_line(
        "markers", "sockwatch_bindspaces(*directories): more directories to look for sock-files in, from this test on"
    )
    if config.getoption("sockwatch") == "off" or not sys.platform.startswith("linux"):
        return
    worker = hasattr(config, "workerinput")
    summary = None if worker else _Summary(config)
    if summary is not None:
        config.pluginmanager.register(summary, "sockwatch-summary")
    if worker or config.getoption("dist", "no") == "no":
        config.pluginmanager.register(_Watch(config, summary), "sockwatch-watch")


class _Watch:
    """Where tests run: the only process, or a worker of xdist."""

    def __init__(self, config: Any, summary: "Optional[_Summary]") -> None:
        self._config = config
        self._summary = summary
        self._xdist = hasattr(config, "workerinput")
        self._error = config.getoption("sockwatch") == "error"
        self._reap = config.getoption("sockwatch_reap")
        self._ini = config.getini("sockwatch_bindspaces") or []
        self._observer: Optional[_Link] = None
        self._awaited: List[str] = []  # directories that are not there yet
        self._basetemp = ""
        self._tests: List[str] = [""]
        self._found: List[_Leak] = []  # in the teardown that is under way
        self._end: Dict[str, Any] = {"leaks": [], "stray": [], "trouble": ""}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> None:
        if session.config.option.collectonly or not session.items and not self._xdist:
            return
        marks = {}
        if self._xdist:
            marks = {
                "PYTEST_XDIST_WORKER": self._config.workerinput["workerid"],
                "PYTEST_XDIST_TESTRUNUID": self._config.workerinput.get("testrunuid", ""),
            }
        try:
            self._observer = _Link(marks)
            runtime = os.environ.get("XDG_RUNTIME_DIR", "")
            for d in self._ini or ([runtime] if runtime.startswith("/") else []):
                self._add(d)
        except _CutOff as e:
            self._cut_off(e)

    def _add(self, directory: str) -> None:
        directory = os.path.join(str(self._config.rootpath), os.path.expanduser(os.path.expandvars(directory)))
        if self._observer is not None:
            if os.path.isdir(directory):
                self._observer.ask("W", [directory, _BELOW])
            else:
                self._awaited.append(directory)

    def _cut_off(self, e: Exception) -> None:
        self._end["trouble"] = "from some test on nothing was looked at: %s" % e
        if self._observer is not None:
            self._observer.close()
            self._observer = None

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: Any) -> Generator[None, None, None]:
        link = self._observer
        if link is not None:
            try:
                for mark in item.iter_markers("sockwatch_bindspaces"):
                    for d in mark.args:
                        self._add(str(d))
                self._find_basetemp(item)
                self._tests.append(item.nodeid)
                link.test(len(self._tests) - 1)
            except _CutOff as e:
                self._cut_off(e)
        self._found = []
        yield
        if link is not None:
            link.test(0)

    def _find_basetemp(self, item: Any) -> None:
        """Pytest makes its directory when the first test asks for it: before, where it can be told."""
        factory = getattr(self._config, "_tmp_path_factory", None)
        wanted = {"tmp_path", "tmp_path_factory", "tmpdir", "tmpdir_factory"}
        if factory is not None and not wanted.isdisjoint(getattr(item, "fixturenames", ())):
            self._watch_basetemp(factory, "W")

    def _watch_basetemp(self, factory: Any, how: str) -> None:
        if self._observer is not None and not self._basetemp and not self._ini:
            self._basetemp = os.path.realpath(str(factory.getbasetemp()))
            self._observer.ask(how, [self._basetemp, _OWN])

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: Any) -> Generator[None, Any, None]:
        outcome = yield
        leaks = self._look("L")
        self._found = leaks
        failure: Optional[BaseException] = None
        own = [leak["line"] for leak in leaks if leak["test"] == item.nodeid]
        if self._error and own:
            failure = pytest.fail.Exception("\n".join(own), pytrace=False)
        for leak in leaks:
            if failure is None or leak["line"] not in own:
                try:
                    item.warn(SockFileLeakWarning(leak["line"]))
                except Warning as e:  # by -W error
                    failure = failure or e
        if failure is not None and outcome.excinfo is None:
            if hasattr(outcome, "force_exception"):
                outcome.force_exception(failure)
            else:
                raise failure

    def _look(self, kind: str) -> List[_Leak]:
        link = self._observer
        if link is None:
            return []
        try:
            for d in [d for d in self._awaited if os.path.isdir(d)]:
                self._awaited.remove(d)
                link.ask("N", [d, _BELOW])
            factory = getattr(self._config, "_tmp_path_factory", None)
            if getattr(factory, "_basetemp", None) is not None:
                self._watch_basetemp(factory, "N")
            if kind == "L" and not link.pending():
                return []
            private = self._basetemp if self._xdist else ""
            replies = link.ask(kind, {"reap": self._reap, "private": private, "xdist": self._xdist})
        except _CutOff as e:
            self._cut_off(e)
            return []
        leaks = []
        for reply in replies:
            reply["test"] = self._tests[reply["test"]]
            reply["during"] = self._tests[reply["during"]]
            reply["line"] = _line(reply)
            leaks.append(reply)
        if link.limited:
            self._end["trouble"] = "not all directories could be watched: there are too many"
        return leaks

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Generator[None, Any, None]:
        outcome = yield
        if call.when == "teardown" and self._found:
            outcome.get_result().sockwatch = self._found

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: Any) -> None:
        for leak in self._look("F"):
            self._end["leaks" if leak["test"] else "stray"].append(leak)
        if self._observer is not None:
            self._observer.close()
            self._observer = None
        if self._summary is not None:
            self._summary.add(self._end)
        else:
            self._config.workeroutput["sockwatch"] = self._end


def _line(leak: _Leak) -> str:
    what = leak["owner"]
    if leak.get("removed"):
        what += "; removed"
    elif leak.get("kept"):
        what += "; kept: " + leak["kept"]
    return _printable("UDS sock-file LEAK detected from test %s: %s (%s)" % (leak["test"], leak["path"], what))


def _printable(text: str) -> str:
    """File names reach terminals."""

    def escaped(c: str) -> str:
        return c.encode("utf-8", "surrogateescape").decode("latin-1").encode("unicode_escape").decode()

    return "".join(c if c.isprintable() else escaped(c) for c in text)


class _Summary:
    """Where the terminal is: the only process, or the controller of xdist."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._leaks: List[_Leak] = []
        self._late: List[_Leak] = []  # found when the report of the test was already out
        self._foreign = False  # one was found in the teardown of another test
        self._stray: List[_Leak] = []
        self._trouble: List[str] = []

    def add(self, end: Dict[str, Any]) -> None:
        self._late += end["leaks"]
        self._leaks += end["leaks"]
        self._stray += end["stray"]
        if end["trouble"] and end["trouble"] not in self._trouble:
            self._trouble.append(end["trouble"])

    def pytest_runtest_logreport(self, report: Any) -> None:
        for leak in getattr(report, "sockwatch", ()):
            self._leaks.append(leak)
            self._foreign = self._foreign or leak["test"] != report.nodeid

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        end = getattr(node, "workeroutput", {}).get("sockwatch")
        if end:
            for leak in end["stray"]:
                leak["from"] = node.gateway.id
            self.add(end)
        else:
            self._trouble.append("worker %s has ended before it could tell of all" % node.gateway.id)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: Any) -> None:
        self._settle()
        if (self._late or self._foreign) and self._config.getoption("sockwatch") == "error" and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _settle(self) -> None:
        """Finds out what is really nobody's: each worker tells of all that is not its own."""
        from .outcome import Outcome, State
        from .remove import NotSocket, SockFile

        known = [leak["identity"] for leak in self._leaks]
        stray = []
        for leak in list(self._stray):
            if leak["worker"]:
                self._blame(leak)
        for leak in self._stray:
            if leak["identity"] in known:
                continue
            known.append(leak["identity"])
            if leak.get("removed"):
                stray.append(leak)
                continue
            try:
                file = SockFile(leak["path"])
            except (OSError, NotSocket):
                continue
            with file:
                there = [file.identity.dev, file.identity.ino, (file.identity.handle or b"").hex()]
                if there != leak["identity"] or file.probe()[0] is not State.DEAD:
                    continue
                # What somebody else was seen to bind is let be.
                if self._config.getoption("sockwatch_reap") and not leak["stranger"] and not leak.get("kept"):
                    leak["removed"] = file.remove().outcome in (Outcome.REMOVED, Outcome.GONE)
                if leak["test"]:
                    leak["line"] = _line(leak)
                    self._late.append(leak)
                    self._leaks.append(leak)
                else:
                    stray.append(leak)
        self._stray = stray

    def _blame(self, sight: _Leak) -> None:
        """One worker has seen that a file was bound by a descendant of another, and that one knows what test it ran."""
        for leak in self._stray:
            if leak["identity"] == sight["identity"] and leak.get("from") == sight["worker"] and leak["during"]:
                leak.update(test=leak["during"], owner=sight["owner"], stranger=False)
                self._stray.remove(leak)
                self._stray.insert(0, leak)  # before what others say of it
                return

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not (self._leaks or self._stray or self._trouble):
            return
        terminalreporter.section("sock-files left behind: %d" % (len(self._leaks) + len(self._stray)))
        width = max((len(leak["test"]) for leak in self._leaks), default=0)
        for leak in sorted(self._leaks, key=lambda leak: (leak["test"], leak["path"])):
            self._row(terminalreporter, leak["test"].ljust(width), leak)
        for leak in self._late:
            terminalreporter.write_line(leak["line"])
        if self._stray:
            terminalreporter.write_line("unattributed, by no test that is known:")
            for leak in sorted(self._stray, key=lambda leak: str(leak["path"])):
                self._row(terminalreporter, "", leak)
        for trouble in self._trouble:
            terminalreporter.write_line("sockwatch: " + trouble)

    @staticmethod
    def _row(terminalreporter: Any, test: str, leak: _Leak) -> None:
        state = "removed" if leak.get("removed") else "left"
        terminalreporter.write_line(_printable("%s  %-7s  %s  %s" % (test, state, leak["path"], leak["owner"])))


class _CutOff(Exception):
    """The observer is gone, or could not be started."""


class _Link:
    """The way to the observer. One is active in a process at a time."""

    def __init__(self, marks: Dict[str, str]) -> None:
        from . import _observer

        self._unread, self._at = _observer.unread, _observer
        self.limited = False
        self._number = 0
        self._lock = threading.Lock()
        self._pid = os.getpid()
        try:
            self._channel, self._inotify, self._page = _observer.start(marks)
            self._inode = os.fstat(self._channel.fileno()).st_ino
        except (OSError, ValueError) as e:
            raise _CutOff(e) from e
        self._outer = _Hook.active
        _Hook.activate(self)

    def close(self) -> None:
        if _Hook.active is self:
            _Hook.active = self._outer
        self._channel.close()
        if self._inotify >= 0:
            os.close(self._inotify)

    def test(self, number: int) -> None:
        self._page[self._at.TEST : self._at.TEST + 4] = struct.pack("I", number)

    def pending(self) -> bool:
        """Whether there is anything to ask. In this order: the observer says that it is busy before it takes an
        event."""
        try:
            return self._unread(self._inotify) or self._page[self._at.BUSY : self._at.BUSY + 8] != bytes(8)
        except OSError as e:
            raise _CutOff(e) from e

    def ask(self, kind: str, argument: Any, patience: float = _PATIENCE) -> List[Dict[str, Any]]:
        with self._lock:
            return self._ask(kind, argument, patience)

    def _ask(self, kind: str, argument: Any, patience: float) -> List[Dict[str, Any]]:
        self._number += 1
        replies: List[Dict[str, Any]] = []
        deadline = time.monotonic() + patience
        try:
            self._channel.send(("%s %d %s" % (kind, self._number, json.dumps(argument))).encode())
            poll = select.poll()
            poll.register(self._channel, select.POLLIN)
            while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                answer = self._channel.recv(64 << 10)
                if not answer:
                    raise _CutOff("its observer has ended")
                number, _, text = answer.partition(b" ")
                if int(number) != self._number:
                    continue  # of a question that was given up
                reply = json.loads(text)
                if reply.get("done"):
                    self.limited = bool(reply.get("limited"))
                    return replies
                replies.append(reply)
        except OSError as e:
            raise _CutOff(e) from e
        raise _CutOff("its observer does not answer")

    def announce(self, sock: "socket.socket", address: Any) -> None:
        """Before this process, or one that was forked from it, binds."""
        if sock.family != 1 or isinstance(address, tuple):  # AF_UNIX
            return
        path = os.fsencode(address)
        if not path or path.startswith(b"\0"):
            return
        fd = self._channel.fileno()
        if os.fstat(fd).st_ino == self._inode:  # a fork may have closed it, and have another under the number
            self._channel.send(b"B" + os.path.join(os.getcwdb(), path), 0x4040)  # MSG_DONTWAIT, MSG_NOSIGNAL

    def before_kill(self) -> None:
        """Who is about to be killed may have bound just now: let the observer look who it was, as long as it lives."""
        if os.getpid() == self._pid and self._lock.acquire(blocking=False):
            try:
                if self._unread(self._inotify) or self._page[self._at.BUSY : self._at.BUSY + 4] != bytes(4):
                    self._ask("S", None, _BEFORE_KILL)
            finally:
                self._lock.release()


class _Hook:
    """The audit hook. It cannot be taken away again, so it does nothing when no observer is there."""

    active: Optional[_Link] = None
    _added = False

    @classmethod
    def activate(cls, link: _Link) -> None:
        cls.active = link
        if not cls._added:
            cls._added = True
            sys.addaudithook(cls._heard)

    @staticmethod
    def _heard(event: str, args: Any) -> None:
        if event != "socket.bind" and event != "os.kill" and event != "os.killpg":
            return
        link = _Hook.active
        if link is None:
            return
        try:
            if event == "socket.bind":
                link.announce(*args)
            else:
                link.before_kill()
        except Exception:
            pass  # the bind or the kill is not to fail for it
