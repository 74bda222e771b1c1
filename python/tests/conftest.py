"""Real processes, real sockets, the real kernel. What waits, waits for a line or for the end of a process."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest

pytest_plugins = ["pytester"]

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def short_directory():
    """A directory with a short path: an address has room for 108 bytes."""
    path = os.path.realpath(tempfile.mkdtemp(prefix="sw"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def short():
    yield from short_directory()


@pytest.fixture
def shorter():
    """Another one."""
    yield from short_directory()


CHILD = """
import os, signal, socket, sys, time
how, kind, *paths = sys.argv[1:]
if how == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = []
for path in paths:
    s = socket.socket(socket.AF_UNIX, getattr(socket, kind))
    s.bind(path)
    if kind != "SOCK_DGRAM":
        s.listen()
    held.append(s)
os.write(1, b"up\\n")
if how == "waits":
    sys.stdin.readline()
    os._exit(3)
time.sleep(3600)
"""


@pytest.fixture
def child():
    """Starts processes that hold sock-files: child("deaf", path), in a synchronous sleep, with no ear for SIGTERM."""
    started = []

    def start(how, *paths, kind="SOCK_STREAM", **options):
        p = subprocess.Popen(
            [sys.executable, "-c", CHILD, how, kind, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
        )
        started.append(p)
        assert p.stdout.readline() == b"up\n"
        return p

    yield start
    for p in started:
        p.kill()
        p.wait()
        p.stdin.close()
        p.stdout.close()


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """No daemon, no watcher, and the package on the path of subprocesses."""
    monkeypatch.setenv("PYTHONPATH", PACKAGE, prepend=os.pathsep)
    monkeypatch.delenv("SOCKWATCH_NOTIFY", raising=False)
    monkeypatch.setenv("SOCKWATCH_RUNTIME_DIR", str(tmp_path / "no-daemon"))
    return monkeypatch
