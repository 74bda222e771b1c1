import os
import socket

import pytest

import sockwatch


@pytest.fixture
def watcher(short, environment):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as s:
        s.bind(short + "/notify")
        environment.setenv("SOCKWATCH_NOTIFY", short + "/notify")
        yield s


def test_reports(watcher):
    assert sockwatch.bound("/run/a.sock")
    assert watcher.recv(4096) == b"BIND=/run/a.sock\n"
    assert sockwatch.closed(b"/run/\xff")
    assert watcher.recv(4096) == b"UNBIND=/run/\xff\n"


def test_relative_path_is_not_cleaned(watcher, short, environment):
    environment.chdir(short)
    assert sockwatch.bound("a/../b")
    assert watcher.recv(4096) == os.fsencode("BIND=%s/a/../b\n" % short)


def test_abstract_address(environment):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind("\0sockwatch-test-%d" % os.getpid())
        environment.setenv("SOCKWATCH_NOTIFY", "@sockwatch-test-%d" % os.getpid())
        assert sockwatch.bound("/x")
        assert s.recv(4096) == b"BIND=/x\n"


@pytest.mark.parametrize("path", ["", "/a\nb", "/a\0b", None, 3, "/" + "x" * 40000], ids=str)
def test_never_raises(watcher, path):
    assert sockwatch.bound(path) is False
    assert sockwatch.closed(path) is False


def test_nobody_watches(environment):
    assert sockwatch.bound("/x") is False


def test_watcher_is_gone(watcher, short):
    watcher.close()
    assert sockwatch.bound("/x") is False
    os.unlink(short + "/notify")
    assert sockwatch.bound("/x") is False


def test_queue_stays_full(watcher):
    while sockwatch.bound("/x"):
        pass
    assert watcher.recv(4096)
    assert sockwatch.bound("/there is room again")
