"""Client of the sockwatch daemon: the varlink interface io.sockwatch.Daemon on its control socket.

It is synchronous, and a call takes well under a millisecond. From trio and asyncio use it in a thread:

    owners = await trio.to_thread.run_sync(client.list)
    owners = await asyncio.to_thread(client.list)

and to stream events, iterate over a Monitor in a thread of its own; Monitor.close() from another one ends the
iteration:

    with client.monitor() as events:
        async def pump():
            await trio.to_thread.run_sync(lambda: [trio.from_thread.run(channel.send, e) for e in events])

(with asyncio: asyncio.to_thread, and loop.call_soon_threadsafe(queue.put_nowait, e)).

Hazards: calls of one Client wait for each other. Calls are as the process that has connected: a Client is of no use
to a child that inherits it. Paths go to the daemon as text; what is not UTF-8 cannot be claimed by it.
"""

from __future__ import annotations

import base64
import dataclasses
import errno
import json
import os
import socket
import stat
import threading
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Type, TypeVar

INTERFACE = "io.sockwatch.Daemon"

RUNTIME_DIR = "SOCKWATCH_RUNTIME_DIR"
_SYSTEM_DIR = "/run/sockwatch"
_LONGEST_REPLY = 16 << 20


class DaemonError(Exception):
    """All that calls fail with, OSError of the connection included."""


class NoDaemon(DaemonError):
    """No sockwatch daemon is running."""


class NoSuchProcess(DaemonError):
    """There is no such process, or its pid is another's now."""


class NoSuchOwner(DaemonError):
    """It is not watched for this user."""


class NoSuchClaim(DaemonError):
    """There is no such claim."""


class NotPermitted(DaemonError):
    """The daemon does not permit it."""


class Invalid(DaemonError):
    """The daemon cannot make sense of it."""


class LimitReached(DaemonError):
    """A limit of the daemon is reached."""


class Failed(DaemonError):
    """The daemon could not do it."""


class ConnectionRefused(DaemonError):
    """The daemon has refused the connection, or what was sent on it."""


class ShuttingDown(DaemonError):
    """The daemon is shutting down."""


class Disconnected(DaemonError):
    """The connection to the daemon has ended, or was given up by an earlier call."""


class Unsupported(DaemonError):
    """The daemon does not have this, it is of another version."""


_ERRORS: "Mapping[str, Type[DaemonError]]" = {
    INTERFACE + ".NoSuchProcess": NoSuchProcess,
    INTERFACE + ".NoSuchOwner": NoSuchOwner,
    INTERFACE + ".NoSuchClaim": NoSuchClaim,
    INTERFACE + ".NotPermitted": NotPermitted,
    INTERFACE + ".Invalid": Invalid,
    INTERFACE + ".LimitReached": LimitReached,
    INTERFACE + ".TooManyConnections": LimitReached,
    INTERFACE + ".TooManyCalls": LimitReached,
    INTERFACE + ".MessageTooLarge": LimitReached,
    INTERFACE + ".MessageTooSlow": ConnectionRefused,
    INTERFACE + ".MalformedMessage": ConnectionRefused,
    INTERFACE + ".SenderMismatch": ConnectionRefused,
    INTERFACE + ".ShuttingDown": ShuttingDown,
    INTERFACE + ".Failed": Failed,
    INTERFACE + ".Internal": Failed,
    "org.varlink.service.InvalidParameter": Invalid,
    "org.varlink.service.PermissionDenied": NotPermitted,
    "org.varlink.service.MethodNotFound": Unsupported,
    "org.varlink.service.MethodNotImplemented": Unsupported,
    "org.varlink.service.InterfaceNotFound": Unsupported,
}


@dataclass(frozen=True)
class Watched:
    id: str = ""
    claims: int = 0  # how many there are now


@dataclass(frozen=True)
class Claim:
    """A sock-file that is claimed for an owner. path is as os.fsdecode has it."""

    path: str = ""
    source: str = ""
    pending: bool = False
    outcome: Optional[str] = None
    reason: Optional[str] = None


@dataclass(frozen=True)
class Owner:
    """A process that is watched."""

    id: str = ""
    process: str = ""  # PID:INODE, or PID:tSTARTTIME before Linux 6.9
    pid: int = 0
    comm: str = ""
    uid: int = 0
    registered_by: Optional[int] = None  # None: found by the daemon itself
    name: Optional[str] = None
    bindspaces: List[str] = field(default_factory=list)
    conventions: List[str] = field(default_factory=list)
    ended: bool = False
    exit: Optional[str] = None
    claims: List[Claim] = field(default_factory=list)


@dataclass(frozen=True)
class Event:
    """What has happened: docs/json.md. type is claim, exit or outcome."""

    type: str = ""
    time: str = ""
    process: str = ""
    pid: int = 0
    comm: str = ""
    uid: Optional[int] = None
    exit: Optional[str] = None
    path: Optional[str] = None
    source: Optional[str] = None
    outcome: Optional[str] = None
    reason: Optional[str] = None
    error: Optional[str] = None
    dry_run: bool = False
    after_exit_us: Optional[int] = None


@dataclass(frozen=True)
class Status:
    pid: int = 0
    version: str = ""
    started: str = ""
    runtime_dir: str = ""
    notify: Optional[str] = None
    dry_run: bool = False
    owners: int = 0
    claims: int = 0
    events_dropped: int = 0
    reports_dropped: int = 0


def control_socket() -> str:
    """The path of the control socket of the daemon that a client means: in $SOCKWATCH_RUNTIME_DIR where that is set;
    else in $XDG_RUNTIME_DIR/sockwatch or /run/sockwatch, the first in which there is one. NoDaemon says where was
    looked."""
    own = os.environ.get(RUNTIME_DIR, "")
    xdg = os.environ.get("XDG_RUNTIME_DIR", "")
    dirs = [own] if own else ([os.path.join(xdg, "sockwatch")] if xdg else []) + [_SYSTEM_DIR]
    looked = []
    for d in dirs:
        if not d.startswith("/"):
            raise NoDaemon("%s is %r: it must be absolute" % (RUNTIME_DIR if own else "XDG_RUNTIME_DIR", own or xdg))
        path = os.path.join(d, "control")
        try:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                return path
            looked.append(path + ": not a socket")
        except (OSError, ValueError) as e:
            looked.append("%s: %s" % (path, getattr(e, "strerror", None) or e))
    raise NoDaemon("no sockwatch daemon is running (%s)" % "; ".join(looked))


class Client:
    """A connection to the daemon. Its methods are for any number of threads, and wait for each other."""

    def __init__(self, address: Optional[str] = None, timeout: Optional[float] = None) -> None:
        """Connects to the control socket at that path, or to what control_socket finds. timeout, in seconds, is for
        each wait for the daemon: when it is over, Disconnected is raised and the Client is of no more use. NoDaemon;
        NotPermitted."""
        self.address = address if address is not None else control_socket()
        self._timeout = timeout
        self._lock = threading.Lock()
        self._wire = _Wire(self.address, timeout)

    def close(self) -> None:
        """Ends the connection. A call that still runs in another thread raises Disconnected."""
        self._wire.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def watch(
        self,
        process: "int | str",
        name: Optional[str] = None,
        paths: Sequence[str] = (),
        bindspaces: Sequence[str] = (),
        conventions: Sequence[str] = (),
    ) -> Watched:
        """Has the daemon watch a process, PID:INODE, PID:tSTARTTIME or PID, for as long as it lives and whatever
        becomes of us. What it holds now is claimed, and the paths, which need not exist yet; they are absolute, as
        the process sees them. To watch again adds paths. NoSuchProcess, NotPermitted, Invalid,
        LimitReached."""
        parameters: Dict[str, Any] = {"process": str(process)}
        if name is not None:
            parameters["name"] = name
        for key, values in (("paths", paths), ("bindspaces", bindspaces), ("conventions", conventions)):
            if values:
                parameters[key] = [os.fspath(v) for v in values]
        return _made(Watched, self._call("Watch", parameters))

    def unwatch(self, id: str) -> None:
        """Ends the watching. The files are kept. NoSuchOwner."""
        self._call("Unwatch", {"id": id})

    def claim(self, id: str, path: str) -> None:
        """Claims one more path for the owner. NoSuchOwner, NotPermitted, Invalid, LimitReached."""
        self._call("Claim", {"id": id, "path": path})

    def release(self, id: str, path: str) -> bool:
        """Withdraws a claim. False when the removal of the file has begun, which is then not stopped. NoSuchOwner,
        NoSuchClaim."""
        return bool(self._call("Release", {"id": id, "path": path}).get("released"))

    def list(self) -> "List[Owner]":
        """Who is watched: for root everybody, for others their own processes."""
        with self._lock:
            replies = list(self._wire.replies("List", {}, more=True))
        return [_owner(o) for r in replies for o in r.get("owners") or ()]

    def status(self) -> Status:
        return _made(Status, self._call("Status", {}))

    def history(self, path: Optional[str] = None) -> "List[Event]":
        """The latest outcomes, the oldest first: those of a path, or all."""
        reply = self._call("History", {} if path is None else {"path": path})
        return [_event(e) for e in reply.get("events") or ()]

    def monitor(self) -> "Monitor":
        """A stream of what happens from now on, on a connection of its own."""
        return Monitor(self.address, self._timeout)

    def _call(self, method: str, parameters: Dict[str, Any]) -> Dict[str, Any]:
        with self._lock:
            for reply in self._wire.replies(method, parameters, more=False):
                return reply
        return {}


class Monitor:
    """Iterates over the Events of the daemon, from the moment that it was made. It ends when the daemon ends the
    stream, or when close is called, from whatever thread."""

    def __init__(self, address: str, timeout: Optional[float] = None) -> None:
        self.dropped = 0  # how many Events there were that we were too slow for
        self._closed = False
        self._wire = _Wire(address, timeout)
        self._replies = self._wire.replies("Monitor", {}, more=True)
        self._note(next(self._replies, {}))  # says that the stream has begun
        self._wire.settimeout(None)

    def _note(self, reply: Dict[str, Any]) -> Optional[Event]:
        self.dropped = reply.get("dropped") or self.dropped
        return _event(reply["event"]) if reply.get("event") else None

    def __iter__(self) -> Iterator[Event]:
        try:
            for reply in self._replies:
                event = self._note(reply)
                if event is not None:
                    yield event
        except Disconnected:
            if not self._closed:
                raise

    def close(self) -> None:
        self._closed = True
        self._wire.close()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Wire:
    """A varlink connection: JSON objects, each ended by a NUL byte."""

    def __init__(self, address: str, timeout: Optional[float]) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout)
        self._rest = b""
        try:
            self._sock.connect(address)
        except OSError as e:
            self._sock.close()
            if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED):
                raise NoDaemon("no sockwatch daemon is running (%s: %s)" % (address, e.strerror)) from e
            if e.errno == errno.EACCES:
                raise NotPermitted("connect to %s: %s" % (address, e.strerror)) from e
            raise DaemonError("connect to the daemon at %s: %s" % (address, e)) from e

    def settimeout(self, timeout: Optional[float]) -> None:
        self._sock.settimeout(timeout)

    def close(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes who waits in recv, which close does not
        except OSError:
            pass
        self._sock.close()

    def replies(self, method: str, parameters: Dict[str, Any], more: bool) -> Iterator[Dict[str, Any]]:
        call: Dict[str, Any] = {"method": "%s.%s" % (INTERFACE, method), "parameters": parameters}
        if more:
            call["more"] = True
        try:
            text = json.dumps(call, ensure_ascii=False).encode()
        except UnicodeEncodeError as e:
            raise Invalid("%r is not UTF-8, and the daemon is told of no other" % e.object) from e
        ended = False
        try:
            self._sock.sendall(text + b"\0")
            while True:
                reply = self._receive()
                ended = not reply.get("continues")
                if "error" in reply:
                    raise _error(reply["error"], reply.get("parameters") or {})
                if not (ended and method == "Monitor" and not reply.get("parameters")):
                    yield reply.get("parameters") or {}
                if ended:
                    return
        except (OSError, ValueError) as e:
            raise Disconnected("the connection to the daemon has ended: %s" % e) from e
        finally:
            if not ended:  # what comes next is no answer to the next call
                self.close()

    def _receive(self) -> Dict[str, Any]:
        parts = [self._rest]
        size = len(self._rest)
        while b"\0" not in parts[-1]:
            part = self._sock.recv(64 << 10)
            if not part:
                raise Disconnected("the connection to the daemon has ended")
            size += len(part)
            if size > _LONGEST_REPLY:
                raise ValueError("a reply of more than %d bytes" % _LONGEST_REPLY)
            parts.append(part)
        message, _, self._rest = b"".join(parts).partition(b"\0")
        reply = json.loads(message)
        if not isinstance(reply, dict):
            raise ValueError("a reply that is no object")
        return reply


def _error(name: str, parameters: Dict[str, Any]) -> DaemonError:
    kind = _ERRORS.get(name, DaemonError)
    said = [str(v) for k, v in parameters.items() if k not in ("limit", "limit_ms", "of") and v not in (None, "")]
    if "limit" in parameters:
        said.append("at most %s" % parameters["limit"])
    if kind is DaemonError:
        said.insert(0, name)
    what = (kind.__doc__ or "").partition("\n")[0].rstrip(".")
    return kind(": ".join([what[:1].lower() + what[1:]] + said) if kind is not DaemonError else ": ".join(said))


_T = TypeVar("_T")


def _made(kind: "Type[_T]", values: Dict[str, Any]) -> _T:
    """A dataclass from an object: fields that we do not know are passed over, what is null has its default."""
    known = {f.name for f in dataclasses.fields(kind)}
    return kind(**{k: v for k, v in values.items() if k in known and v is not None})


def _exact(values: Dict[str, Any]) -> Dict[str, Any]:
    encoded = values.get("path_b64")
    return {**values, "path": os.fsdecode(base64.b64decode(encoded))} if encoded else values


def _owner(values: Dict[str, Any]) -> Owner:
    claims = [_made(Claim, _exact(c)) for c in values.get("claims") or ()]
    return _made(Owner, {**values, "claims": claims})


def _event(values: Dict[str, Any]) -> Event:
    return _made(Event, _exact(values))
