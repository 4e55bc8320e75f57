"""The exceptions of Waybill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class WaybillError(RuntimeError):
    """Whatever went wrong in this library; its text names operator, argument, expected and got.

    Raised as such when memory is short and for what should not happen at all. As after
    ArgumentError and MismatchError, the call has then failed on every rank and the group can be
    used at once, unless the message says that it needs a reset.
    """

    operator: str | None
    """The operator or function, for instance "npu_moe_distribute_dispatch_v2"."""
    argument: str | None
    """The argument that is to blame, where one is."""
    ranks: list[int]
    """The missing ranks (PeerTimeout, PeerLost), those that differ or refused (MismatchError),
    those that left the group (StateError), or the one whose memory is short for its rows."""

    def __init__(
        self,
        message: str,
        *,
        operator: str | None = None,
        argument: str | None = None,
        ranks: Iterable[int] = (),
    ) -> None:
        super().__init__(message)
        self.operator = operator
        self.argument = argument
        self.ranks = list(ranks)


class ArgumentError(WaybillError, ValueError):
    """An argument of this rank is wrong. The group can be used at once, unless the message says
    that it needs a reset: after a row that combine expected and nobody returned."""


class MismatchError(WaybillError):
    """Ranks disagree, or another rank refused the call. The group can be used at once, unless the
    ranks are out of step: the message says so, and the group needs a reset."""


class PeerTimeout(WaybillError, TimeoutError):
    """A rank that lives did not come in time. The group needs a reset."""


class PeerLost(WaybillError):
    """The process of a rank has ended. The group needs a reset."""


class StateError(WaybillError):
    """Calls in a wrong order: a group that needs a reset, a rank that has left it, an unknown
    group, a forked child."""


CLASSES: Mapping[str, type[WaybillError]] = {
    "InvalidArgument": ArgumentError,
    "Mismatch": MismatchError,
    "OutOfMemory": WaybillError,
    "Timeout": PeerTimeout,
    "PeerLost": PeerLost,
    "Interrupted": WaybillError,
    "InvalidState": StateError,
    "Internal": WaybillError,
}
"""The class of each status code of the C++ library."""


def from_record(record: Mapping[str, Any]) -> WaybillError:
    """The exception for an error of the C++ library."""
    return CLASSES[record["code"]](
        record["message"],
        operator=record["operator"] or None,
        argument=record["argument"] or None,
        ranks=record["ranks"],
    )
