import errno
import os
import socket
import subprocess
import sys

import pytest
from conftest import PACKAGE

from sockwatch import NotSocket, Outcome, Reason, SockFile, State, _sys, remove


def bind(path, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_UNIX, kind)
    s.bind(path)
    return s


def dead(path):
    bind(path).close()
    return path


def test_probe_and_remove_each_kind(short):
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        path = "%s/%d" % (short, kind)
        s = bind(path, kind)
        with SockFile(path) as f:
            assert f.probe() == (State.ALIVE, Reason.NONE)
            assert f.remove().outcome is Outcome.ALIVE
            s.close()
            assert f.probe() == (State.DEAD, Reason.NONE)
            assert f.remove().outcome is Outcome.REMOVED
            assert f.remove().outcome is Outcome.GONE
    assert os.listdir(short) == []


def test_connected_datagram_and_full_backlog_are_alive(short):
    a, b = bind(short + "/a", socket.SOCK_DGRAM), bind(short + "/b", socket.SOCK_DGRAM)
    a.connect(short + "/b")
    full = bind(short + "/full")
    full.listen(0)
    clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(3)]
    for c in clients:
        c.connect_ex(short + "/full")
    for name in ("/a", "/b", "/full"):
        with SockFile(short + name) as f:
            assert f.probe()[0] is State.ALIVE
    for s in [a, b, full] + clients:
        s.close()


def test_path_longer_than_an_address(short):
    deep = short + "/" + "/".join(["d" * 100] * 3)
    os.makedirs(deep)
    fd = os.open(deep, os.O_RDONLY)
    try:
        s = bind("/proc/self/fd/%d/s" % fd)
    finally:
        os.close(fd)
    with SockFile(deep + "/s") as f:
        assert f.probe()[0] is State.ALIVE
        s.close()
        assert f.remove().outcome is Outcome.REMOVED


def test_other_files_are_none(short):
    with open(short + "/file", "w"):
        pass
    os.symlink(dead(short + "/s"), short + "/link")
    for name in ("/file", "/link", "/.", "/"):
        with pytest.raises(NotSocket):
            SockFile(short + name)
    with pytest.raises(FileNotFoundError):
        SockFile(short + "/none")


def test_another_file_has_the_name(short):
    with SockFile(dead(short + "/s")) as f:
        os.unlink(f.path)
        s = bind(f.path)
        assert f.remove().outcome is Outcome.REPLACED
        s.close()
        assert f.remove().outcome is Outcome.REPLACED
        os.unlink(f.path)
        with open(f.path, "w"):
            pass
        result = f.remove()
        assert (result.outcome, result.reason) == (Outcome.REPLACED, Reason.NOT_SOCKET)


def test_inode_number_that_is_given_out_again(short):
    """On ext4 at once: the handle tells."""
    for _ in range(20):
        with SockFile(dead(short + "/s")) as f:
            os.unlink(f.path)
            dead(f.path)
            assert f.remove().outcome is Outcome.REPLACED
        os.unlink(short + "/s")


def test_renamed_and_linked_files_are_found(short):
    s = bind(short + "/temporary")
    with SockFile(short + "/temporary") as f:
        assert f.probe()[0] is State.ALIVE
        os.link(short + "/temporary", short + "/final")
        os.link(short + "/temporary", short + "/other")
        os.unlink(short + "/temporary")
        s.close()
        assert f.remove().outcome is Outcome.REMOVED
    assert os.listdir(short) == []


def test_hard_linked_and_never_seen_alive(short):
    os.link(dead(short + "/a"), short + "/b")
    with SockFile(short + "/a") as f:
        result = f.remove()
        assert (result.outcome, result.reason) == (Outcome.REFUSED, Reason.HARD_LINKED)
    assert sorted(os.listdir(short)) == ["a", "b"]


def test_without_rename_noreplace(short, monkeypatch):
    """On a filesystem that does not know it: back by a link."""

    def refused(*_):
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(_sys, "rename_noreplace", refused)
    with SockFile(dead(short + "/s")) as f:
        assert f.remove().outcome is Outcome.REMOVED
    s = bind(short + "/s")
    with SockFile(short + "/s") as f:
        # As if a server had bound between the look at the name and the rename.
        monkeypatch.setattr(SockFile, "_condemn", lambda *_: None)
        assert f.remove().outcome is Outcome.ALIVE
    assert os.listdir(short) == ["s"]
    monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no links")))
    with SockFile(short + "/s") as f:
        result = f.remove()
        assert (result.outcome, result.reason) == (Outcome.REFUSED, Reason.PERMISSION)
    s.close()
    assert os.listdir(short) == ["s"]


def test_live_file_that_got_in_between_is_renamed_back(short, monkeypatch):
    s = bind(short + "/server.sock")
    with SockFile(short + "/server.sock") as f:
        monkeypatch.setattr(SockFile, "_condemn", lambda *_: None)
        assert f.remove().outcome is Outcome.ALIVE
        inode = f.identity.ino
    assert os.stat(short + "/server.sock").st_ino == inode
    s.close()


@pytest.mark.parametrize("step", ["_named", "_ask", "_drop"])
def test_interrupt_leaves_no_private_name(short, monkeypatch, step):
    """A KeyboardInterrupt, or a timeout that a signal handler raises, can come at any moment."""
    real, calls = getattr(SockFile, step), []

    def interrupted(self, *args):
        calls.append(1)
        if any(remove.is_private(name) for name in map(os.fsencode, os.listdir(short))):
            raise KeyboardInterrupt
        return real(self, *args)

    with SockFile(dead(short + "/server.sock")) as f:
        monkeypatch.setattr(SockFile, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            f.remove()
    assert os.listdir(short) == ["server.sock"] and calls


def as_user(code, *args):
    """Runs code as an ordinary user, who is somebody else than we only if we are root."""
    drop = (
        "import os\nif os.getuid() == 0:\n"
        "    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
    )
    code = "import sys; sys.path.insert(0, sys.argv.pop(1))\nfrom sockwatch import SockFile\n" + drop + code
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, PACKAGE, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_directory_that_may_not_be_written_to(short):
    os.chmod(dead(short + "/s"), 0o666)
    os.chmod(short, 0o555)
    try:
        said = as_user("r = SockFile(sys.argv[1]).remove(); print(r.outcome, r.reason, r.step)", short + "/s")
    finally:
        os.chmod(short, 0o755)
    assert said[:2] == ["refused", "permission"] and said[2] == "rename"
    assert os.listdir(short) == ["s"]


def test_probe_that_may_not_be_made(short):
    os.chmod(short, 0o777)
    os.chmod(dead(short + "/s"), 0o400)
    said = as_user("r = SockFile(sys.argv[1]).remove(); print(r.outcome, r.reason, r.step)", short + "/s")
    assert said == ["refused", "permission", "probe"]


def test_layers_of_an_overlay(short):
    """Where the probe does not see what is bound through the merged view. The layers' paths are relative to nobody knows what: for as
    long as they are mounted everybody on the machine takes any directory with such a path for one, so no other has these names."""
    script = (
        "set -e; cd $1; mount -t tmpfs none .; n=$(basename $1); mkdir lower-$n upper-$n work-$n merged; "
        "mount -t overlay overlay -o lowerdir=lower-$n,upperdir=upper-$n,workdir=work-$n merged; "
        "ln -s upper-$n upper; exec \"$2\" -I -c \"$3\" $4"
    )
    code = (
        "import sys, socket, os; sys.path.insert(0, sys.argv[1])\n"
        "from sockwatch import SockFile\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('merged/s')\n"
        "for path in ('upper/s', 'merged/s'):\n"
        "    r = SockFile(path).remove(); print(r.outcome, r.reason or '-')\n"
        "s.close(); print(SockFile('merged/s').remove().outcome)\n"
    )
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", short, sys.executable, code, PACKAGE],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
    except FileNotFoundError as e:
        pytest.skip(str(e))
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout.split() == ["refused", "overlay-layer", "alive", "-", "removed"], done.stderr


def test_descriptors_are_closed(short):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with SockFile(dead(short + "/s")) as f:
            f.probe()
            f.remove()
        with pytest.raises(FileNotFoundError):
            SockFile(short + "/s")
    assert len(os.listdir("/proc/self/fd")) == before
