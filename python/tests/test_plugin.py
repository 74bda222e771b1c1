"""The plugin, on suites that pytest runs in a process of its own."""

import mmap
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from sockwatch import _observer

pytest.importorskip("xdist")

# Of a pytest that is older than the interpreter; the number of warnings is looked at.
QUIET = "ignore::DeprecationWarning"

PRELUDE = """
import os, signal, socket, subprocess, sys, threading, time
import pytest
from sockwatch import pytest_plugin

RUN = os.environ["XDG_RUNTIME_DIR"]
pytest_plugin._BEFORE_KILL = 180.0  # no test fails because the observer was slow

def looked():  # at all that has happened until now, by the observer
    pytest_plugin._Hook.active.ask("S", None)

SERVER = '''
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
os.write(1, b"up")
how = sys.stdin.readline().strip()
if how == "exit":
    os._exit(3)
if how == "tidy":
    s.close()
    os.unlink(sys.argv[1])
'''

def server(path, **options):
    p = subprocess.Popen([sys.executable, "-c", SERVER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    assert p.stdout.read(2) == b"up"
    return p

def ends(p, how):
    p.communicate(how.encode() + b"\\n")

def bind(path):
    s = socket.socket(socket.AF_UNIX)
    s.bind(str(path))
    s.listen()
    return s
"""

TEN = """
alive = []

def test_nothing():
    pass

def test_killed():
    p = server(RUN + "/killed.sock")
    p.kill()
    p.wait()

def test_tidy_child(tmp_path):
    ends(server(tmp_path / "tidy.sock"), "tidy")

def test_exits():
    pid = os.fork()
    if pid == 0:
        bind(RUN + "/deep/exits.sock")
        os._exit(3)
    os.waitpid(pid, 0)

def test_alive():
    alive.append(bind(RUN + "/alive.sock"))

def test_closed(tmp_path):
    bind(tmp_path / "closed.sock").close()

def test_unlinks():
    bind(RUN + "/unlinks.sock").close()
    os.unlink(RUN + "/unlinks.sock")

def test_unlinks_there(tmp_path):
    s = bind(tmp_path / "s.sock")
    os.unlink(tmp_path / "s.sock")
    s.close()

def test_rebinds(tmp_path):
    for _ in range(10):
        bind(tmp_path / "s.sock").close()
        os.unlink(tmp_path / "s.sock")

@pytest.mark.parametrize("x", [1])
def test_last(x):
    pass
"""


@pytest.fixture
def suite(pytester, environment, short, shorter):
    environment.setenv("XDG_RUNTIME_DIR", short)
    os.mkdir(short + "/deep")
    environment.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def run(body, *args):
        pytester.makepyfile(test_it=PRELUDE + body)
        return pytester.runpytest_subprocess("-p", "sockwatch.pytest_plugin", "-p", "no:cacheprovider", "--basetemp", shorter, "-W", QUIET, *args)

    return run


def leaks(result):
    """Test and file of each line, without those of the short summary."""
    found = re.findall(r"UDS sock-file LEAK detected from test (\S+): (\S+) \((.*)\)", result.stdout.str())
    return sorted((test.rpartition("::")[2], os.path.basename(path)) for test, path, _ in found)


THREE = [("test_closed", "closed.sock"), ("test_exits", "exits.sock"), ("test_killed", "killed.sock")]


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one", "xdist"])
class TestTen:
    def test_warn(self, suite, short, workers):
        result = suite(TEN, *workers)
        result.assert_outcomes(passed=10, warnings=3)
        assert leaks(result) == THREE
        assert result.ret == 0
        result.stdout.fnmatch_lines(["*= sock-files left behind: 3 =*"])
        assert re.search(r"killed.sock \(bound by process \d+ \(.*\), killed by SIGKILL\)", result.stdout.str())
        assert "unattributed" not in result.stdout.str() and "tidy.sock" not in result.stdout.str()
        assert "alive.sock" not in result.stdout.str()
        assert os.path.exists(short + "/killed.sock") and os.path.exists(short + "/deep/exits.sock")

    def test_error(self, suite, workers):
        result = suite(TEN, "--sockwatch=error", *workers)
        result.assert_outcomes(passed=10, errors=3)
        assert leaks(result) == THREE
        assert result.ret == 1

    def test_reap(self, suite, short, workers):
        result = suite(TEN, "--sockwatch-reap", *workers)
        assert leaks(result) == THREE
        # What was alive to the end is dead by now, as the process is. That is not the plugin's business.
        assert sorted(os.listdir(short)) == ["alive.sock", "deep"]
        assert os.listdir(short + "/deep") == []


def test_off(suite, short):
    result = suite(TEN, "--sockwatch=off", "--sockwatch-reap")
    result.assert_outcomes(passed=10)
    assert leaks(result) == [] and os.path.exists(short + "/killed.sock")


def test_owner_is_a_child_of_a_child(suite):
    result = suite(
        """
def test_orphan():
    # Its parent is gone, and it is killed when it serves.
    shell = subprocess.run(
        [sys.executable, "-c", SPAWN, sys.executable, SERVER, RUN + "/orphan.sock"], stdout=subprocess.PIPE
    )
    pid = int(shell.stdout)
    while not os.path.exists(RUN + "/orphan.sock"):
        time.sleep(0.01)
    fd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    import select
    select.select([fd], [], [])

SPAWN = '''
import subprocess, sys
p = subprocess.Popen([sys.argv[1], "-c", sys.argv[2], sys.argv[3]], stdin=open("/dev/zero"), stdout=subprocess.DEVNULL)
print(p.pid)
'''
SERVER = "import socket, sys, time; s = socket.socket(1); s.bind(sys.argv[1]); time.sleep(99)"
""",
        "-n1",
    )
    result.assert_outcomes(passed=1, warnings=1)
    assert leaks(result) == [("test_orphan", "orphan.sock")]


def test_stranger_is_not_blamed(suite, short):
    """Somebody else makes a file in the bindspace while a test runs, and dies."""
    code = (
        "import os, socket, sys, time\n"
        "while not os.path.exists(sys.argv[1] + '/now'): time.sleep(0.01)\n"
        "s = socket.socket(1); s.bind(sys.argv[1] + '/stranger.sock'); time.sleep(99)"
    )
    body = """
def test_long():
    open(RUN + "/now", "w").close()
    while not os.path.exists(RUN + "/stranger.sock"):
        time.sleep(0.01)
    looked()

def test_more():
    open(RUN + "/kill", "w").close()
    while os.path.exists(RUN + "/kill"):
        time.sleep(0.01)

def test_and_more():
    bind(RUN + "/mine.sock").close()
"""
    kill = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\nos.kill(int(sys.argv[2]), 9)\n"
    for workers in ([], ["-n1"]):
        with subprocess.Popen([sys.executable, "-c", code, short], start_new_session=True) as stranger:
            end = "fd = os.pidfd_open(int(sys.argv[2])); import select; select.select([fd], [], []); os.unlink(sys.argv[1])"
            with subprocess.Popen([sys.executable, "-c", kill + end, short + "/kill", str(stranger.pid)]):
                result = suite(body, "--sockwatch-reap", *workers)
        assert leaks(result) == [("test_and_more", "mine.sock")]
        result.stdout.fnmatch_lines(["unattributed*", "*left*stranger.sock*"])
        assert sorted(os.listdir(short)) == ["deep", "now", "stranger.sock"]  # it is not ours to remove
        os.unlink(short + "/now")
        os.unlink(short + "/stranger.sock")


def test_files_from_before_are_nobodys(suite, short):
    s = socket.socket(socket.AF_UNIX)
    s.bind(short + "/old.sock")
    s.close()
    result = suite("def test_it(): pass", "--sockwatch-reap")
    result.assert_outcomes(passed=1)
    assert "left behind" not in result.stdout.str() and os.path.exists(short + "/old.sock")


def test_fixture_of_a_module_is_the_test_s_that_asked_first(suite):
    result = suite(
        """
@pytest.fixture(scope="module")
def serving():
    p = server(RUN + "/module.sock")
    yield p
    p.kill()
    p.wait()

def test_before(): pass
def test_first(serving): pass
def test_last(serving): pass
""",
        "--sockwatch=error",
    )
    result.assert_outcomes(passed=3, warnings=1)
    assert leaks(result) == [("test_first", "module.sock")]
    assert result.ret == 1


def test_process_that_takes_its_time(suite):
    """It has closed its socket when the test ends, and unlinks a little later."""
    result = suite(
        """
SLOW = '''
import os, socket, sys, time
s = socket.socket(1); s.bind(sys.argv[1]); os.write(1, b"up"); sys.stdin.read()
s.close()
os.write(1, b"closed")
time.sleep(0.05)
os.unlink(sys.argv[1])
'''
def test_slow():
    global p
    p = subprocess.Popen([sys.executable, "-c", SLOW, RUN + "/slow.sock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    p.stdout.read(2)
    looked()
    p.stdin.close()
    assert p.stdout.read(6) == b"closed"

def test_later():  # at the end of all tests nobody is waited for any more
    p.wait()
"""
    )
    assert leaks(result) == [] and "left behind" not in result.stdout.str()


def test_thread(short, monkeypatch):
    """A thread of the tests' process has closed its socket, and unlinks a little later. How long that may take is no matter here."""
    monkeypatch.setattr(_observer, "GRACE", 180.0)
    monkeypatch.setattr(_observer, "DYING", 180.0)
    observer = _observer.Observer(os.getpid(), None, -1, mmap.mmap(-1, mmap.PAGESIZE), {})
    observer._watch(os.fsencode(short), 0, new=False)
    s = socket.socket(socket.AF_UNIX)
    s.bind(short + "/thread.sock")
    observer._list_all()
    (seen,) = observer._seen.values()
    assert seen.mine and seen.pid == os.getpid()
    s.close()
    t = threading.Timer(0.01, os.unlink, [short + "/thread.sock"])
    t.start()
    assert observer._dead(final=True) == [] and not observer._seen
    t.join()


def test_bindspaces(suite, pytester, short):
    """By the ini file instead of the defaults, and by a marker; also a directory that is made later."""
    pytester.makeini("[pytest]\nsockwatch_bindspaces =\n    $SHORT/ini\n    later\n")
    os.makedirs(short + "/ini/a/b/c")
    os.mkdir(short + "/marked")
    os.environ["SHORT"] = short
    try:
        result = suite(
            """
def test_default(): bind(RUN + "/default.sock").close()
def test_ini(): bind(RUN + "/ini/a/b/ini.sock").close()
def test_too_deep(): bind(RUN + "/ini/a/b/c/deep.sock").close()
def test_later():
    os.makedirs("later/x")
    bind("later/x/later.sock").close()
@pytest.mark.sockwatch_bindspaces(RUN + "/marked")
def test_marked(): bind(RUN + "/marked/marked.sock").close()
""",
            "--strict-markers",
        )
    finally:
        del os.environ["SHORT"]
    assert leaks(result) == [("test_ini", "ini.sock"), ("test_later", "later.sock"), ("test_marked", "marked.sock")]


def test_directory_that_is_asked_for_late(suite):
    result = suite("def test_it(request): bind(request.getfixturevalue('tmp_path') / 's').close()")
    assert leaks(result) == [("test_it", "s")]


def test_warnings_that_are_errors(suite):
    result = suite("def test_it(): bind(RUN + '/s').close()", "-W", "error::pytest.PytestWarning")
    result.assert_outcomes(passed=1, errors=1)
    assert "test_it: " in result.stdout.str() and result.ret == 1


def test_names_are_printable(suite):
    result = suite("def test_it(): socket.socket(1).bind(os.fsencode(RUN) + b'/\\xff\\x1b[31m')")
    assert leaks(result) == [("test_it", "\\xff\\x1b[31m")]


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["one", "xdist"])
def test_without_inotify(suite, pytester, workers):
    """A user can have so many of them, fs.inotify.max_user_instances."""
    pytester.makeconftest(
        """
from sockwatch import _sys
def none():
    raise OSError(24, "Too many open files")
_sys.inotify_init = none
"""
    )
    result = suite(TEN, *workers)
    result.assert_outcomes(passed=10, warnings=3)
    assert leaks(result) == THREE


def test_observer_that_is_killed(suite):
    result = suite(
        """
def test_it():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = open("/proc/%s/cmdline" % pid).read()
        except OSError:
            continue
        if "_observer" in command and "\\0%d\\0" % os.getpid() in command:
            fd = os.pidfd_open(int(pid))
            os.kill(int(pid), 9)
            import select
            select.select([fd], [], [])
    bind(RUN + "/s").close()

def test_more(): pass
"""
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["sockwatch: from some test on nothing was looked at*"])


def test_observer_ends_with_the_tests(suite):
    result = suite("def test_it(): print('worker', os.getpid(), flush=True); os._exit(0)", "-s")
    worker = re.search(r"worker (\d+)", result.stdout.str())[1]
    deadline = time.monotonic() + 180
    while observers(worker):
        assert time.monotonic() < deadline


def observers(worker):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid) as f:
                if "_observer" in (line := f.read()) and "\0%s\0" % worker in line:
                    found.append(pid)
        except OSError:
            continue
    return found


def test_worker_that_another_one_has_seen(short):
    """A process died before its own worker's observer could look; another worker's has seen it. The third file is nobody's."""
    from types import SimpleNamespace

    from sockwatch import SockFile, pytest_plugin

    summary = pytest_plugin._Summary(SimpleNamespace(getoption={"sockwatch_reap": True}.get))
    strays = []
    for name in ("seen", "unseen", "stranger"):
        s = socket.socket(socket.AF_UNIX)
        s.bind(short + "/" + name)
        s.close()
        with SockFile(s_path := short + "/" + name) as f:
            identity = [f.identity.dev, f.identity.ino, (f.identity.handle or b"").hex()]
        strays.append({"test": "", "during": "t::" + name, "worker": "", "path": s_path, "identity": identity,
                       "owner": "it is not known who bound it", "stranger": False})
    seen, unseen, stranger = strays
    stranger.update(owner="bound by process 7", stranger=True)
    other = dict(seen, during="t::other", worker="gw1", owner="bound by process 9, exit status 3", stranger=True)
    for worker, stray in (("gw0", [other, unseen]), ("gw1", [seen, dict(unseen), stranger])):
        node = SimpleNamespace(gateway=SimpleNamespace(id=worker),
                               workeroutput={"sockwatch": {"leaks": [], "stray": stray, "trouble": ""}})
        summary.pytest_testnodedown(node, None)
    summary._settle()
    assert [leak["line"] for leak in summary._late] == [
        "UDS sock-file LEAK detected from test t::seen: %s/seen (bound by process 9, exit status 3; removed)" % short
    ]
    assert sorted((leak["path"], leak.get("removed", False)) for leak in summary._stray) == [
        (short + "/stranger", False), (short + "/unseen", True)
    ]
    assert os.listdir(short) == ["stranger"]
