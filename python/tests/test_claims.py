import os
import socket
import subprocess
import sys

import pytest

from sockwatch import claims
from sockwatch.process import Process


def paths(pid, *dirs):
    with Process(pid) as p:
        files = claims.held(p, tuple(map(os.fsencode, dirs)))
        try:
            return sorted(f.path for f in files)
        finally:
            for f in files:
                f.close()


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM", "SOCK_SEQPACKET"])
def test_what_a_process_holds(short, child, kind):
    p = child("sleeps", short + "/a", short + "/b", kind=kind)
    assert paths(p.pid) == [short + "/a", short + "/b"]


def test_relative_path(short, child):
    p = child("sleeps", "relative.sock", cwd=short)
    assert paths(p.pid) == [short + "/relative.sock"]


def test_renamed_file(short, child):
    p = child("sleeps", short + "/a")
    os.rename(short + "/a", short + "/b")
    assert paths(p.pid) == [short + "/b"]
    os.mkdir(short + "/elsewhere")
    os.rename(short + "/b", short + "/elsewhere/c")
    assert paths(p.pid) == []
    assert paths(p.pid, short + "/elsewhere") == [short + "/elsewhere/c"]


def test_unlinked_file_and_accepted_socket_are_not_held(short, child):
    p = child("sleeps", short + "/a")
    os.unlink(short + "/a")
    assert paths(p.pid) == []

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(short + "/l")
    listener.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(short + "/l")
    accepted, _ = listener.accept()
    code = "import os, sys; os.write(1, b'up\\n'); sys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[accepted.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as heir:
        heir.stdout.readline()
        assert paths(heir.pid) == []
        assert short + "/l" in paths(os.getpid())
        heir.communicate(b"\n")
    for s in (listener, client, accepted):
        s.close()


@pytest.mark.parametrize(
    "pattern, built",
    [
        ("{name}@{pid}.sock", "web@7.sock"),
        ("{pid}", "7"),
        ("{{{name}}}", "{web}"),
        ("a{{b}}{pid}", "a{b}7"),
    ],
)
def test_convention(pattern, built):
    assert claims.convention(pattern)("web", 7) == built


@pytest.mark.parametrize("pattern", ["", "x", "{name", "name}", "{nam}", "{name}{name}", "a/{pid}", "{pid}\0", "{}"])
def test_no_convention(pattern):
    with pytest.raises(ValueError):
        claims.convention(pattern)


def test_convention_without_what_it_needs():
    build = claims.convention("{name}@{pid}.sock")
    assert build(None, 7) is None and build("a/b", 7) is None and build("web", 0) is None
    assert claims.convention("{pid}")(None, 7) == "7"


def test_preset(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/x")
    assert claims.preset("tractor") == (["/run/x/tractor"], ["{name}@{pid}.sock"])
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert claims.preset("tractor")[0] == ["/run/user/%d/tractor" % os.getuid()]
    with pytest.raises(ValueError, match="tractor"):
        claims.preset("none")
