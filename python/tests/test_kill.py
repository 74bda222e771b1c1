import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import sockwatch
from sockwatch import Outcome, Reason, kill


@pytest.fixture(autouse=True)
def alone(environment, short):
    environment.setenv("XDG_RUNTIME_DIR", short)
    os.mkdir(short + "/tractor")


@pytest.fixture(params=["default", "custom"])
def place(request, short):
    """A directory, and what has to be said of it."""
    if request.param == "default":
        return short + "/tractor", {"preset": "tractor", "name": "actor"}
    os.mkdir(short + "/custom")
    return short + "/custom", {"bindspace": short + "/custom", "convention": "{name}@{pid}.sock", "name": "actor"}


def outcomes(results):
    return sorted((r.path, r.outcome) for r in results)


def test_child_that_is_deaf(child, place):
    """Stuck in time.sleep and with no ear for SIGTERM; nobody has named its file."""
    directory, _ = place
    p = child("deaf", directory + "/actor.sock")
    killed = sockwatch.hard_kill(p, terminate_after=0.1)
    assert (killed.pid, killed.ended, killed.killed, killed.error) == (p.pid, True, True, None)
    assert outcomes(killed.files) == [(directory + "/actor.sock", Outcome.REMOVED)]
    assert p.returncode is None  # nobody has taken its status
    assert p.wait() == -signal.SIGKILL
    assert killed.exit == "killed by SIGKILL"
    assert os.listdir(directory) == []


def test_child_that_ends_when_asked(child, place):
    directory, _ = place
    p = child("sleeps", directory + "/actor.sock")
    killed = sockwatch.hard_kill(p, terminate_after=180)
    assert (killed.ended, killed.killed, killed.error) == (True, False, None)
    assert outcomes(killed.files) == [(directory + "/actor.sock", Outcome.REMOVED)]
    assert p.wait() == -signal.SIGTERM


def test_by_pid_and_at_once(child, short):
    p = child("deaf", short + "/a", short + "/b")
    killed = sockwatch.hard_kill(p.pid, terminate_after=0)
    assert killed.ended and killed.killed
    assert outcomes(killed.files) == [(short + "/a", Outcome.REMOVED), (short + "/b", Outcome.REMOVED)]


def test_twice(child, short):
    p = child("sleeps", short + "/a")
    assert sockwatch.hard_kill(p, bind_addrs=[short + "/a"]).ended
    for _ in range(2):
        killed = sockwatch.hard_kill(p, bind_addrs=[short + "/a"])
        assert killed.ended and not killed.killed
        assert outcomes(killed.files) == [(short + "/a", Outcome.GONE)]
        p.wait()


def test_afterwards_by_address(child, short):
    """At the end of somebody else's hard kill, in each way in which runtimes write addresses."""

    class Address:
        def unwrap(self):
            return short, "c"

    p = child("deaf", *(short + "/" + n for n in "abcd"))
    p.kill()
    p.wait()
    addresses = [short + "/a", (short, "b"), Address(), os.fsencode(short + "/d")]
    addresses += [("127.0.0.1", 1616), "\0abstract", short + "/none"]
    results = sockwatch.unlink_bind_addrs(p.pid, bind_addrs=addresses)
    removed = [(short + "/" + n, Outcome.REMOVED) for n in "abcd"]
    assert outcomes(results) == removed + [(short + "/none", Outcome.GONE)]
    assert os.listdir(short) == ["tractor"]
    again = sockwatch.unlink_bind_addrs(p.pid, bind_addrs=short + "/a")
    assert outcomes(again) == [(short + "/a", Outcome.GONE)]


def test_afterwards_by_convention(child, place):
    directory, named = place
    code = "import os, socket, sys, time; s = socket.socket(1); s.bind(sys.argv[1] % os.getpid()); "
    code += "os.write(1, b'x'); time.sleep(99)"
    with subprocess.Popen([sys.executable, "-c", code, directory + "/actor@%d.sock"], stdout=subprocess.PIPE) as p:
        p.stdout.read(1)
        # A number that is no pid, and somebody else's file, are none of our business.
        registry = socket.socket(socket.AF_UNIX)
        registry.bind(directory + "/registry@1616.sock")
        p.kill()
        p.wait()
    path = "%s/actor@%d.sock" % (directory, p.pid)
    assert outcomes(sockwatch.unlink_bind_addrs(p.pid, **named)) == [(path, Outcome.REMOVED)]
    assert sockwatch.unlink_bind_addrs(p.pid, **named) == []
    assert os.listdir(directory) == ["registry@1616.sock"]
    registry.close()


def test_tracked(child, short):
    p = child("deaf", short + "/a")
    with sockwatch.tracked(p.pid) as t:
        assert t.paths == [short + "/a"] and t.error is None
        p.kill()
        p.wait()
        assert outcomes(t.unlink()) == [(short + "/a", Outcome.REMOVED)]
        assert outcomes(t.unlink()) == [(short + "/a", Outcome.GONE)]
    assert os.listdir(short) == ["tractor"]


def test_next_life_is_kept(child, short):
    """It is started again before the old file was removed."""
    first = child("deaf", short + "/a")
    with sockwatch.tracked(first) as t:
        first.kill()
        first.wait()
        os.unlink(short + "/a")
        child("deaf", short + "/a")
        assert outcomes(t.unlink()) == [(short + "/a", Outcome.REPLACED)]
    results = sockwatch.unlink_bind_addrs(first.pid, bind_addrs=short + "/a")
    assert [(r.outcome, r.reason) for r in results] == [(Outcome.ALIVE, Reason.HOLDER)]


def test_socket_that_an_heir_holds_is_kept(short):
    code = (
        "import os, socket, sys, time; s = socket.socket(1); s.bind(sys.argv[1])\n"
        "pid = os.fork()\nif pid: os.write(1, b'%d\\n' % pid)\ntime.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", code, short + "/a"], stdout=subprocess.PIPE) as p:
        heir = int(p.stdout.readline())
        killed = sockwatch.hard_kill(p)
        assert [(r.outcome, r.reason) for r in killed.files] == [(Outcome.ALIVE, Reason.HOLDER)]
        killed = sockwatch.hard_kill(heir)
        assert outcomes(killed.files) == [(short + "/a", Outcome.REMOVED)]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(short, method):
    context = multiprocessing.get_context(method)
    ready, up = context.Pipe(duplex=False)
    p = context.Process(target=serve, args=(short + "/a", up))
    p.start()
    assert ready.recv() == "up"
    killed = sockwatch.hard_kill(p)
    assert killed.ended and outcomes(killed.files) == [(short + "/a", Outcome.REMOVED)]
    p.join()
    assert p.exitcode == -signal.SIGTERM
    p.close()
    assert sockwatch.hard_kill(p).files == []


def serve(path, up):
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    up.send("up")
    time.sleep(3600)


def test_asyncio(short):
    async def main():
        code = "import socket, sys, time; s = socket.socket(1); s.bind(sys.argv[1]); print(flush=True); time.sleep(99)"
        p = await asyncio.create_subprocess_exec(sys.executable, "-c", code, short + "/a", stdout=subprocess.PIPE)
        await p.stdout.readline()
        killed = await asyncio.get_running_loop().run_in_executor(None, sockwatch.hard_kill, p)
        assert outcomes(killed.files) == [(short + "/a", Outcome.REMOVED)]
        assert await p.wait() == -signal.SIGTERM

    asyncio.run(main())


@pytest.mark.parametrize("who", [0, -1, 1, None, True, "x", object(), 2**22 + 1, os.getpid()], ids=range(9))
def test_never_raises(short, who):
    s = socket.socket(socket.AF_UNIX)
    s.bind(short + "/a")
    s.close()
    nonsense = {"convention": "nonsense", "preset": "none", "bindspace": 7}
    killed = sockwatch.hard_kill(who, bind_addrs=[short + "/a", object()], **nonsense)
    assert killed.error is not None and not killed.killed
    assert sorted(r.outcome.value for r in killed.files) == ["failed"] * 4 + ["removed"]
    assert sockwatch.unlink_bind_addrs(who) == []
    with sockwatch.tracked(who) as t:
        assert t.unlink() == []


def test_never_another_process(child, short, monkeypatch):
    """A Popen that somebody else has reaped, and whose pid is another's."""
    p = child("sleeps", short + "/a")
    monkeypatch.setattr(kill, "stat_of", lambda _: ["S", "1"])
    killed = sockwatch.hard_kill(p)
    assert isinstance(killed.error, ProcessLookupError) and p.poll() is None


def test_interrupt_still_kills_and_removes(child, short, monkeypatch):
    p = child("deaf", short + "/a")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(kill, "_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sockwatch.hard_kill(p)
    assert p.wait() == -signal.SIGKILL
    assert os.listdir(short) == ["tractor"]


def test_descriptors_are_closed(child, short):
    sockwatch.hard_kill(child("sleeps", short + "/a"))
    before = len(os.listdir("/proc/self/fd"))
    p = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
    sockwatch.hard_kill(p, bind_addrs=short + "/b")
    p.wait()
    assert len(os.listdir("/proc/self/fd")) == before
