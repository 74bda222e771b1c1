"""The client, with a daemon of its own: SOCKWATCH names the program."""

import os
import signal
import socket
import subprocess
import threading
import time

import pytest

import sockwatch
from sockwatch import client, kill


@pytest.fixture
def daemon(short, environment):
    program = os.environ.get("SOCKWATCH")
    if not program:
        pytest.skip("the variable SOCKWATCH does not name the program")
    runtime = short + "/runtime"
    environment.setenv("SOCKWATCH_RUNTIME_DIR", runtime)
    os.mkdir(runtime, 0o700)
    config = short + "/config.toml"
    with open(config, "w"):
        pass
    with open(short + "/log", "wb") as log:
        p = subprocess.Popen([program, "daemon", "--config", config], stderr=log, stdout=log)
    while True:
        try:
            client.Client().close()
            break
        except client.NoDaemon:
            with open(short + "/log") as log:
                assert p.poll() is None, log.read()
            time.sleep(0.01)
    yield p
    p.terminate()
    p.wait()


def test_no_daemon(environment, short):
    with pytest.raises(sockwatch.NoDaemon, match="no-daemon"):
        sockwatch.Client()
    with pytest.raises(sockwatch.NoDaemon):
        sockwatch.Client(short + "/none")
    environment.setenv("SOCKWATCH_RUNTIME_DIR", "relative")
    with pytest.raises(sockwatch.NoDaemon, match="absolute"):
        sockwatch.Client()


def test_watch(daemon, child, short):
    p = child("deaf", short + "/a")
    with sockwatch.Client() as c, c.monitor() as events:
        assert c.status().pid == daemon.pid and c.status().owners == 0
        watched = c.watch(p.pid, name="a", paths=[short + "/b"], bindspaces=[short], conventions=["{name}@{pid}.sock"])
        assert watched.claims == 2
        c.claim(watched.id, short + "/c")
        assert c.release(watched.id, short + "/c") is True
        with pytest.raises(client.NoSuchClaim):
            c.release(watched.id, short + "/c")
        (owner,) = c.list()
        assert (owner.pid, owner.id, owner.name, owner.ended) == (p.pid, watched.id, "a", False)
        assert sorted((claim.path, claim.pending) for claim in owner.claims) == [(short + "/a", False), (short + "/b", True)]
        p.kill()
        p.wait()
        removed = next(e for e in events if e.type == "outcome" and e.path == short + "/a")
        assert (removed.outcome, removed.pid) == ("removed", p.pid)
        assert not os.path.exists(short + "/a")
        assert [e.outcome for e in c.history(short + "/a")] == ["removed"]
        assert events.dropped == 0


def test_errors(daemon, short):
    with sockwatch.Client() as c:
        with pytest.raises(client.NoSuchProcess):
            c.watch(2**22 + 1)
        with pytest.raises(client.NoSuchOwner):
            c.unwatch("nothing")
        with pytest.raises(client.Invalid):
            c.watch(os.getpid(), paths=["relative"])
        with pytest.raises(client.Invalid):
            c.watch(os.getpid(), paths=["/\udcff"])
        assert c.list() == []  # the connection is of use still


def test_unwatch_keeps_the_file(daemon, child, short):
    p = child("sleeps", short + "/a")
    with sockwatch.Client() as c:
        c.unwatch(c.watch(p.pid).id)
        assert c.list() == []


def test_monitor_is_closed_by_another_thread(daemon):
    with sockwatch.Client() as c:
        events = c.monitor()
        closer = threading.Timer(0.05, events.close)
        closer.start()
        assert list(events) == []
        closer.join()


def test_daemon_that_ends(daemon):
    c = sockwatch.Client()
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    with pytest.raises(sockwatch.DaemonError):
        c.status()
    with pytest.raises(client.Disconnected):
        c.status()
    c.close()
    with pytest.raises(sockwatch.NoDaemon):
        sockwatch.Client()


def test_daemon_that_does_not_answer(environment, short):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(short + "/control")
        s.listen()
        with sockwatch.Client(short + "/control", timeout=0.05) as c:
            with pytest.raises(client.Disconnected):
                c.status()


def test_hard_kill_with_a_daemon(daemon, child, short, monkeypatch):
    """What the daemon has claimed and the process does not hold any more: it closed the socket and left the file."""
    monkeypatch.setattr(kill, "_DAEMON_PATIENCE", 180)
    p = child("deaf", short + "/held")
    s = socket.socket(socket.AF_UNIX)
    s.bind(short + "/told")
    with sockwatch.Client() as c:
        c.watch(p.pid, paths=[short + "/told"])
        s.close()
        killed = sockwatch.hard_kill(p, terminate_after=0.05)
        p.wait()
        assert killed.error is None
        # Whoever was faster: we, or the daemon.
        assert sorted(r.path for r in killed.files) == [short + "/held", short + "/told"]
        assert all(r.outcome in ("removed", "gone") for r in killed.files)
    assert not os.path.exists(short + "/held") and not os.path.exists(short + "/told")
