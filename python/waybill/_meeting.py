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

from .errors import PeerTimeout

Entry = dict[str, Any]
_POLL_SECONDS = 0.002


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

    Collective. `decide` runs on rank 0 with the entries in rank order. Raises PeerTimeout.
    """
    board = _Board(store, prefix)
    deadline = time.monotonic() + timeout
    entry = {**entry, "nonce": uuid4().hex}
    board.post(f"rank-{rank}", entry)
    if rank == 0:
        return _lead(board, world_size, decide, deadline)
    return _follow(board, rank, str(entry["nonce"]), deadline)


def _lead(
    board: _Board, world_size: int, decide: Callable[[list[Entry]], Entry], deadline: float
) -> Entry:
    nonces: list[str] = []
    decision: Entry = {}
    token = ""
    while True:
        entries = [board.read(f"rank-{rank}") for rank in range(world_size)]
        here = [entry for entry in entries if entry is not None]
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
        _wait(deadline, missing or [0])


def _accepted(board: _Board, rank: int, token: str, nonces: list[str]) -> bool:
    answer = board.read(f"accepted-{rank}") if nonces else None
    return answer is not None and answer["token"] == token


def _follow(board: _Board, rank: int, nonce: str, deadline: float) -> Entry:
    accepted = ""
    while True:
        offer = board.read("offer")
        if offer is not None and nonce in offer["nonces"]:
            if offer["token"] != accepted:
                accepted = str(offer["token"])
                board.post(f"accepted-{rank}", {"token": accepted})
            final = board.read("final")
            if final is not None and final["token"] == accepted:
                return dict(offer["decision"])
        _wait(deadline, [0])


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
