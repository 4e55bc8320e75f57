"""Names of processes that hold for good: pids are used again, start times are not."""

from __future__ import annotations

import errno
import os
from typing import Any

from . import _library
from .errors import WaybillError

Record = dict[str, Any]


def _namespace() -> str:
    """Where pids mean the same: machines number their namespaces alike."""
    return f"{_library.this_host()}/{os.stat('/proc/self/ns/pid').st_ino}"


def own_record() -> Record:
    """This process, for others of this machine."""
    pid = os.getpid()
    start = _library.process_start(pid)
    if start == 0:  # others would take it for the start of another process
        raise WaybillError(
            f"connect: /proc/{pid}/stat cannot be read: {_library.describe_lack()}",
            operator="connect",
        )
    return {"pid": pid, "start": start, "namespace": _namespace()}


def is_known(record: Record | None) -> bool:
    """Whether its pid means something here: containers have their own."""
    return record is not None and record["namespace"] == _namespace()


def has_ended(record: Record | None) -> bool:
    """True when the process is known to have ended; a zombie counts as ended."""
    if record is None or not is_known(record):
        return False
    start = _library.process_start(record["pid"])
    if start == 0:  # gone, or this process has no descriptor to read of it
        return not _exists(record["pid"])
    return start != record["start"] or _is_zombie(record["pid"])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
