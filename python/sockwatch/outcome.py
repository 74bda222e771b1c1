"""What became of a sock-file, in the words of the JSON interface (docs/json.md)."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Optional

__all__ = ["Outcome", "Reason", "Refused", "Result", "State"]


class _Word(str, enum.Enum):
    def __str__(self) -> str:
        return str(self.value)


class State(_Word):
    """The answer of the probe: is any socket in the kernel bound to this inode."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


class Outcome(_Word):
    """What became of a sock-file that was to be removed. The first four are no failures."""

    REMOVED = "removed"  # it was dead and is gone
    GONE = "gone"  # somebody else had removed it, or it never was there
    ALIVE = "alive"  # a socket is bound to it: kept
    REPLACED = "replaced"  # another file has its name: kept
    UNKNOWN = "unknown"  # could not be found out: kept
    REFUSED = "refused"  # may not be removed, or not safely: kept
    FAILED = "failed"  # the kernel failed us on the way

    @property
    def ok(self) -> bool:
        """The file is gone, or rightly kept."""
        return self in (Outcome.REMOVED, Outcome.GONE, Outcome.ALIVE, Outcome.REPLACED)


class Reason(_Word):
    """Why a file was kept. The list is closed."""

    NONE = ""
    HOLDER = "holder"
    HOLDER_NOT_VISIBLE = "holder-not-visible"
    NOT_SOCKET = "not-socket"
    PERMISSION = "permission"
    MOUNT_POINT = "mount-point"
    NETWORK_FS = "network-fs"
    OVERLAY_LAYER = "overlay-layer"
    READ_ONLY = "read-only"
    NO_SPACE = "no-space"
    NO_PROCFS = "no-procfs"
    HARD_LINKED = "hard-linked"


class Refused(Exception):
    """The error of a Result that is refused on sockwatch's own judgement, not on the kernel's."""


@dataclass(frozen=True)
class Result:
    """What became of one sock-file."""

    path: str  # bytes that are no UTF-8 are as os.fsdecode has them
    outcome: Outcome
    reason: Reason = Reason.NONE
    error: Optional[Exception] = None  # what the kernel said, when it did
    step: str = ""  # at which step it said so

    def __str__(self) -> str:
        why = ", ".join(filter(None, (self.reason.value, ": ".join(filter(None, (self.step, str(self.error or "")))))))
        return "%s %s%s" % (self.outcome, self.path, " (%s)" % why if why else "")


_REFUSALS = {
    errno.EBUSY: Reason.MOUNT_POINT,
    errno.EROFS: Reason.READ_ONLY,
    errno.EPERM: Reason.PERMISSION,
    errno.EACCES: Reason.PERMISSION,
    errno.ENOSPC: Reason.NO_SPACE,
    errno.EDQUOT: Reason.NO_SPACE,
}


def refusal(path: str, step: str, error: Exception) -> Result:
    """The Result of an error that the kernel gave at a step of a removal."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOENT, errno.ENOTDIR):
        return Result(path, Outcome.GONE)
    if number in _REFUSALS:
        return Result(path, Outcome.REFUSED, _REFUSALS[number], error, step)
    return Result(path, Outcome.FAILED, Reason.NONE, error, step)
