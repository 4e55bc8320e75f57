"""What one rank of tools/soak_alone.py does: a server that catches every exception and goes on.

Layers are numbered, and their values carry the number. Form and sizes change every few layers, so
that ranks at different layers mostly make calls that fit together: only values can tell them apart.

What fails on all ranks together leaves them in step: all go on, retry or skip a layer, and which of
these depends on the layer alone. After any other error a rank tries what it likes, as often as it
likes, and then calls reset. The epoch of a reset gives the layer with which all begin again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

import waybill
from fault_board import Board
from numbered_layers import FORMS, Layer, WrongValues, allow_memory
from waybill import _interrupts, _library, groups

TIMEOUT = 4.0
WINDOW_BYTES = 8 << 20
EPOCH_LAYERS = 100_000
BLOCK = 8  # layers of the same form and sizes
GRANULE = 64 << 10
RETRIES = 2
MOST_HELD = 60
FEW_LAYERS = 12  # that a shortage lasts
RETRY_SECONDS = 0.001  # until a signal finds a wait
WAITS = ("wait-half", "wait-signals", "wait-readers")
FAULTS = ("memory", "expert", "pair", "late", "very late", "hold", "fill", "interrupt")
ALWAYS_RESET = (waybill.StateError, waybill.PeerTimeout, waybill.PeerLost)


class ProgramError(Exception):
    """What a program raises in its own code."""


class AloneBoard(Board):
    """Names for the words of this soak."""

    OVER, FAULT, VICTIM, KIND = range(4)
    WRONG, LAYERS, LAST = 16, 32, 48  # a word for each rank; LAST: when it made progress, ns


class AloneRank:
    """One process; lives until the board says that it is over."""

    def __init__(self, rank: int, num_ranks: int, board: AloneBoard, folder: Path, seed: int):
        self.rank = rank
        self.num_ranks = num_ranks
        self.board = board
        self.folder = folder
        self.seed = seed
        self.draw = random.Random(f"{seed}-{rank}")
        self.name = folder.name
        self.where = {"group_ep": self.name, "ep_world_size": num_ranks, "ep_rank_id": rank}
        self.counts: Counter[str] = Counter()
        self.waits = {n for n, phase in enumerate(_library.PHASES) if phase in WAITS}
        self.phase = 0
        self.interrupted = False  # a signal waits for a wait
        self.fault_seen = 0
        self.to_raise: str | None = None  # before which call this layer's program fails
        self.to_sleep = 0.0
        self.short_until = 0  # the layer
        self.holds = False
        self.held: list[tuple[Tensor, Tensor]] = []  # an output, and what has to stay in it
        self.filling: list[Tensor] = []

    def live(self) -> None:
        os.environ["WAYBILL_WINDOW_BYTES"] = str(WINDOW_BYTES)
        store = dist.FileStore(str(self.folder / "store"))
        signal.signal(signal.SIGINT, self.on_signal)
        signal.signal(signal.SIGALRM, self.on_signal)
        groups.connect_with_hook(
            store, self.rank, self.num_ranks, self.name, 60.0, 1, on_phase=self.on_phase
        )
        waybill.set_timeout(self.name, TIMEOUT)
        try:
            self.serve()
        finally:
            self.counts["calls"] = int(waybill.stats(self.name)["calls"])
            (self.folder / f"counts-{self.rank}").write_text(json.dumps(self.counts))
        self.interrupted = False
        self.let_go()
        waybill.release(self.name, timeout=1.0)

    @property
    def over(self) -> bool:
        return self.board.words[self.board.OVER] != 0

    # Layers

    def layer(self, number: int) -> Layer:
        draw = random.Random(f"{self.seed}-{number // BLOCK}")
        bs = draw.choice((1, 3, 8, 24, 64))
        share = draw.choice((0, 0, bs, 3 * bs))
        return Layer(
            form=draw.choice(FORMS),
            num_ranks=self.num_ranks,
            number=number,
            bs=bs,
            hidden=draw.choice((16, 64, 256, 512)),
            global_bs=share * self.num_ranks,
            towards=draw.choice((None, None, draw.randrange(self.num_ranks))),
        )

    def serve(self) -> None:
        number = EPOCH_LAYERS
        tries = 0
        while not self.over:
            self.take_fault(number)
            error = self.attempt(number)
            if self.over:
                return
            if error is None:
                number, tries = number + 1, 0
            elif self.is_of_all(error):
                # Where all ranks fail they do the same.
                policy = random.Random(f"{self.seed}-{number}").choice(("go on", "retry", "skip"))
                tries += 1
                if policy == "retry" and tries <= RETRIES:
                    self.counts["after errors: retried"] += 1
                else:
                    number, tries = number + (2 if policy == "skip" else 1), 0
                    self.counts["after errors: went on or skipped"] += 1
            else:
                number, tries = self.recover(number, error), 0

    def attempt(self, number: int) -> BaseException | None:
        """One layer; its error, which is counted."""
        found: BaseException | None = None
        try:
            outputs = self.layer(number).run(self.where, self.before)
            if self.holds:
                rows = outputs[0][: len(self.layer(number).rows(self.rank))]
                self.held.append((rows, rows.clone()))
            self.counts["layers"] += 1
            self.board.words[self.board.LAYERS + self.rank] += 1
        except (waybill.WaybillError, ProgramError, KeyboardInterrupt) as error:
            found = error.with_traceback(None)  # which would hold what the layer had
        except WrongValues as error:
            self.report(f"wrong: {error}")
            found = error.with_traceback(None)
        self.to_raise = None
        self.note_progress()
        if found is not None and not self.over:
            self.note(found)
            self.let_go()
        elif len(self.held) >= MOST_HELD:
            self.let_go()
        return found

    def before(self, what: str) -> None:
        """Of each call, and of the experts."""
        self.note_progress()
        if self.to_sleep and what != "experts" and self.draw.random() < 0.5:
            seconds, self.to_sleep = self.to_sleep, 0.0
            time.sleep(seconds)
        if self.to_raise == what:
            raise ProgramError(what)

    def is_of_all(self, error: BaseException) -> bool:
        """An error that every rank gets in the same call, and after which the group goes on."""
        if not isinstance(error, waybill.WaybillError) or isinstance(error, ALWAYS_RESET):
            return False
        text = str(error)
        return "out of step" not in text and "needs a reset" not in text

    # Errors

    def recover(self, number: int, error: BaseException) -> int:
        """Some more attempts, which have to fail, and a reset of all; the layer behind it."""
        # A program cannot know what the others heard of its own exception. If it went back or left
        # a layer out without an error of the group, it would be out of step by itself.
        refused = isinstance(error, waybill.WaybillError | KeyboardInterrupt)
        number += 1
        for _ in range(self.draw.randrange(3) if refused else 2):
            if self.over:
                return number
            if refused:
                number += self.draw.choice((-1, 0, 1))
            again = self.attempt(number)
            number += 1
            if again is None and refused:
                self.report(f"layer {number - 1} ended well after {error}")
            refused = refused or again is not None
        self.reset()
        return int(waybill.stats(self.name)["epoch"]) * EPOCH_LAYERS

    def reset(self) -> None:
        while not self.over:
            self.counts["resets"] += 1
            try:
                if len(waybill.reset(self.name)) == self.num_ranks:
                    return
                self.counts["resets without some rank"] += 1
            except waybill.WaybillError as error:
                self.counts[f"errors of reset: {type(error).__name__}"] += 1
                self.write(f"reset: {error}")
            finally:
                self.note_progress()

    def note(self, error: BaseException) -> None:
        kind = type(error).__name__
        text = str(error)
        memory = "out of memory" in text or "out of address space" in text
        if isinstance(error, waybill.MismatchError) and "out of step" in text:
            kind += ", out of step"
        elif isinstance(error, waybill.StateError):
            reasons = {
                "earlier call failed": "needs a reset",
                "called reset during": "others reset",
                "left the group": "a rank left",
                "a setup is open": "a setup is open",
                "went on after a reset": "left behind",
            }
            kind += next((f", {why}" for part, why in reasons.items() if part in text), "")
        elif memory:
            kind += ", memory alone" if "needs a reset" in text else ", memory"
        elif isinstance(error, waybill.WaybillError) and not isinstance(error, ALWAYS_RESET):
            self.report(f"unexpected: {kind}: {text}")
        self.counts[f"errors: {kind}"] += 1
        self.write(f"{kind}: {text}")

    def report(self, text: str) -> None:
        self.board.words[self.board.WRONG + self.rank] += 1
        self.write(f"problem: {text}\n{traceback.format_exc()}")

    def write(self, text: str) -> None:
        print(f"{time.monotonic():.3f} {text}", flush=True)

    def note_progress(self) -> None:
        self.board.words[self.board.LAST + self.rank] = time.monotonic_ns()

    # Faults

    def take_fault(self, number: int) -> None:
        """A new one that is meant for this rank; the end of a shortage."""
        if self.short_until and not number < self.short_until <= number + FEW_LAYERS:
            self.short_until = 0
            allow_memory(None)
            self.filling.clear()
        words = self.board.words
        serial = int(words[self.board.FAULT])
        if serial == self.fault_seen:
            return
        self.fault_seen = serial
        self.holds = False
        self.let_go()
        if words[self.board.VICTIM] == self.rank:
            kind = FAULTS[words[self.board.KIND]]
            self.write(f"fault: {kind}")
            self.counts[f"faults: {kind}"] += 1
            self.begin_fault(kind, number)

    def begin_fault(self, kind: str, number: int) -> None:
        form = self.layer(number).form
        if kind == "memory":
            # Less than nothing: what was reserved is more than what may be, as where others of the
            # machine take it.
            self.short_until = number + FEW_LAYERS
            allow_memory(self.draw.choice((-4, 0, 0, 0, 1, 2, 4, 8)) * GRANULE)
        elif kind == "fill":
            self.short_until = number + FEW_LAYERS
            self.fill()
        elif kind == "hold":
            self.holds = True
        elif kind == "pair" and form == "setup":
            self.to_raise = self.draw.choice(("dispatch_teardown", "combine_teardown"))
        elif kind in ("expert", "pair"):
            self.to_raise = "experts"
        elif kind == "late":
            self.to_sleep = self.draw.random() * 0.3
        elif kind == "very late":
            self.to_sleep = TIMEOUT + 0.5
        elif kind == "interrupt":
            self.interrupted = True
            self.on_signal()

    def fill(self) -> None:
        """Takes most of the pool's address space."""
        rows = WINDOW_BYTES // 2
        while rows >= 1 << 15:
            try:
                self.filling.append(waybill.expert_buffer(self.name, rows, 1, torch.bfloat16))
            except waybill.WaybillError:
                rows //= 2

    def let_go(self) -> None:
        """Of held outputs, which have to be as they were."""
        for rows, want in self.held:
            if not torch.equal(rows, want):
                self.report("wrong: a held output has changed")
        self.held.clear()

    def on_phase(self, number: int) -> None:
        self.phase = number

    def on_signal(self, _: int = 0, frame: FrameType | None = None) -> None:
        """Ctrl-C, as soon as this rank waits: elsewhere a program could not know where it is."""
        if not self.interrupted or self.over:
            return
        # Not as the hook of a phase is called: what that raises nobody hears.
        asked = frame is not None and frame.f_code.co_filename == _interrupts.__file__
        if not asked or self.phase not in self.waits:
            signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
            return
        self.interrupted = False
        self.counts["interrupts that found a wait"] += 1
        raise KeyboardInterrupt
