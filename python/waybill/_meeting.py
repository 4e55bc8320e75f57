"""How the ranks of a group find each other: through a store, once.

Stores may hold what an earlier group with the same prefix left behind, so every rank brings a
nonce, and only answers that contain it count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from torch.distributed import PrefixStore, Store

from . import _processes
from .errors import PeerTimeout

Entry = dict[str, Any]
_POLL_SECONDS = 0.002
_LOOK_SECONDS = 0.25
"""How often the processes of the others are looked after."""


class _Board:
    """JSON values under keys of a store."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = PrefixStore(prefix, store)

    def post(self, key: str, value: Entry) -> None:
        self._store.set(key, json.dumps(value))

    def read(self, key: str) -> Entry | None:
        return dict(json.loads(self._store.get(key))) if self._store.check([key]) else None


def meet(
    store: Store,
    prefix: str,
    rank: int,
    world_size: int,
    entry: Entry,
    decide: Callable[[list[Entry]], Entry],
    timeout: float,
) -> Entry:
    """Brings what each rank has to say to rank 0, and what rank 0 makes of it to all.

    Collective. `decide` runs on rank 0 with the entries in rank order. The decision is {"lost":
    ranks} when processes of ranks have ended meanwhile. Raises PeerTimeout.
    """
    board = _Board(store, prefix)
    deadline = time.monotonic() + timeout
    entry = {**entry, "nonce": uuid4().hex, "process": _processes.own_record()}
    board.post(f"rank-{rank}", entry)
    if rank == 0:
        return _lead(board, world_size, str(entry["nonce"]), decide, deadline)
    return _follow(board, rank, str(entry["nonce"]), deadline)


def _lead(
    board: _Board,
    world_size: int,
    nonce: str,
    decide: Callable[[list[Entry]], Entry],
    deadline: float,
) -> Entry:
    posted: list[int] | None = None
    # Who has read what an earlier meeting under this prefix came to brings a new nonce. Until then
    # its entry says nothing, and what it still has to read must stay.
    last = _last_end(board)
    over = set() if last is None else set(last["nonces"])
    nonces: list[str] = []
    decision: Entry = {}
    token = ""
    watch = _Watch()
    while True:
        posts = [board.read(f"rank-{rank}") for rank in range(world_size)]
        entries = [None if post and post["nonce"] in over else post for post in posts]
        here = [entry for entry in entries if entry is not None]
        if lost := watch.lost(entries):
            token, decision = uuid4().hex, {"lost": lost}
            here_nonces = [entry["nonce"] for entry in here]
            board.post("offer", {"token": token, "nonces": here_nonces, "decision": decision})
            board.post("final", {"token": token})
            return decision
        if len(here) == world_size and [entry["nonce"] for entry in here] != nonces:
            # Also when one of them was a leftover and the rank itself has come since.
            nonces = [entry["nonce"] for entry in here]
            decision, token = decide(here), uuid4().hex
            board.post("offer", {"token": token, "nonces": nonces, "decision": decision})
        missing = [
            rank for rank in range(1, world_size) if not _accepted(board, rank, token, nonces)
        ]
        if nonces and not missing:
            board.post("final", {"token": token})
            return decision
        if not nonces:
            missing = [rank for rank, entry in enumerate(entries) if entry is None]
        if missing != posted:
            posted = missing
            board.post("missing", {"leader": nonce, "ranks": missing})
        _wait(deadline, missing or [0])


def _last_end(board: _Board) -> Entry | None:
    """The offer of the last meeting that came to an end, or None."""
    offer, final = board.read("offer"), board.read("final")
    if offer is None or final is None or offer["token"] != final["token"]:
        return None
    return offer


class _Watch:
    """Notices the end of ranks that came while this one was waiting.

    What was there at the first look may be a leftover of an earlier group.
    """

    def __init__(self) -> None:
        self._old: list[str | None] | None = None
        self._next_look = 0.0

    def lost(self, entries: list[Entry | None]) -> list[int]:
        if self._old is None:
            self._old = [str(entry["nonce"]) if entry else None for entry in entries]
        if time.monotonic() < self._next_look:
            return []
        self._next_look = time.monotonic() + _LOOK_SECONDS
        return [
            rank
            for rank, (entry, old) in enumerate(zip(entries, self._old, strict=True))
            if entry is not None
            and entry["nonce"] != old
            and _processes.has_ended(entry.get("process"))
        ]


def find_formed(store: Store, prefix: str) -> Entry | None:
    """The decision of the last meeting under this prefix that came to an end, or None."""
    offer = _last_end(_Board(store, prefix))
    return None if offer is None else dict(offer["decision"])


def _accepted(board: _Board, rank: int, token: str, nonces: list[str]) -> bool:
    answer = board.read(f"accepted-{rank}") if nonces else None
    return answer is not None and answer["token"] == token


def _follow(board: _Board, rank: int, nonce: str, deadline: float) -> Entry:
    accepted = ""
    watch = _Watch()
    while True:
        if watch.lost([board.read("rank-0")]):
            return {"lost": [0]}
        offer = board.read("offer")
        if offer is not None and nonce in offer["nonces"]:
            if offer["token"] != accepted:
                accepted = str(offer["token"])
                board.post(f"accepted-{rank}", {"token": accepted})
            final = board.read("final")
            if final is not None and final["token"] == accepted:
                return dict(offer["decision"])
        _wait(deadline, _missing(board, rank) if time.monotonic() >= deadline else [0])


def _missing(board: _Board, rank: int) -> list[int]:
    """Whom rank 0 waits for; rank 0 where it has not come itself."""
    leader, missing = board.read("rank-0"), board.read("missing")
    if leader is None or missing is None or missing["leader"] != leader["nonce"]:
        return [0]
    return [other for other in missing["ranks"] if other != rank] or [0]


def _wait(deadline: float, missing: list[int]) -> None:
    if time.monotonic() >= deadline:
        ranks = ", ".join(str(rank) for rank in missing)
        raise PeerTimeout(
            f"connect: expected all ranks at the group's store in time, rank(s) {ranks} did not "
            "come",
            operator="connect",
            ranks=missing,
        )
    time.sleep(_POLL_SECONDS)
