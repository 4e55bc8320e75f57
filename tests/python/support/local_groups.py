"""Ranks as threads with an EP group and, for TP = 2, a TP group each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import waybill
from waybill import groups

_numbers = itertools.count()


class LocalGroups:
    """E*TP places, numbered TP * ep_rank + tp_rank as in the oracle's lists."""

    def __init__(
        self,
        num_ranks: int,
        tp: int = 1,
        *,
        timeout: float = 20.0,
        strict: str | None = None,
        on_phase: Callable[[int], None] | None = None,
    ) -> None:
        self.num_ranks = num_ranks
        self.tp = tp
        base = f"layer-{next(_numbers)}"
        self.ep_names = [[f"{base}-ep{t}-{r}" for r in range(num_ranks)] for t in range(tp)]
        self.tp_names = [[f"{base}-tp{r}-{t}" for t in range(tp)] for r in range(num_ranks)]
        options: dict[str, Any] = {"timeout": timeout, "threads": 1, "strict": strict}
        for names in self.ep_names:
            groups.connect_local(names, on_phase=on_phase, **options)
        for names in self.tp_names if tp == 2 else []:
            groups.connect_local(names, **options)

    @property
    def num_places(self) -> int:
        return self.num_ranks * self.tp

    def name(self, place: int) -> str:
        """Of the EP group, as that place has it."""
        return self.ep_names[place % self.tp][place // self.tp]

    def where(self, place: int) -> dict[str, Any]:
        """Group names and rank ids."""
        ep_rank, tp_rank = divmod(place, self.tp)
        own: dict[str, Any] = {"group_ep": self.name(place), "ep_rank_id": ep_rank}
        if self.tp == 2:
            own |= {"group_tp": self.tp_names[ep_rank][tp_rank], "tp_rank_id": tp_rank}
        return own

    def outcomes(
        self, function: Callable[[int], Any], places: Sequence[int] | None = None
    ) -> list[Any]:
        """function(place) on a thread each: results or exceptions; None for places left out."""
        chosen = range(self.num_places) if places is None else places
        results: list[Any] = [None] * self.num_places
        with ThreadPoolExecutor(len(chosen)) as executor:
            futures = {place: executor.submit(function, place) for place in chosen}
        for place, future in futures.items():
            error = future.exception()
            results[place] = future.result() if error is None else error
        return results

    def run(self, function: Callable[[int], Any], places: Sequence[int] | None = None) -> list[Any]:
        """The same; raises the first exception."""
        results = self.outcomes(function, places)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def reset(self) -> None:
        """After a call that left out some place."""
        self.run(lambda place: waybill.reset(self.name(place)))

    def close(self, timeout: float = 1.0) -> None:
        """`timeout` is what a rank waits that has a set-up open."""
        names = self.ep_names + (self.tp_names if self.tp == 2 else [])
        for name in itertools.chain.from_iterable(names):
            waybill.release(name, timeout=timeout)
