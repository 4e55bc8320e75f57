"""The life of one rank of a fault case: its calls, where the victim is hit, what it writes down.

Each rank appends records to a file of its own, a line of JSON each, so that those of a rank that
is killed are there, too. fault_matrix.py reads and judges them.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

import waybill
from fault_board import MAX_RANKS, SLACK, Board, growth, level, wait_until
from fault_cases import COMBINE, PHASES, ROUNDS_AFTER, Fault, FaultCase, Point
from fault_layers import Arguments, Round, make_call, run_round, short_name
from waybill import _library, _meeting, groups

SHORT_TIMEOUT = 2.0  # of groups in which the end of a timeout is expected
PATIENT_TIMEOUT = 20.0  # of the others: the end of a process is noticed whatever the timeout
SLOW_SECONDS = 0.1
PATIENCE = 25.0

LOOKED, CONNECTED, FAILED, SHRUNK, DONE = range(1, 6)
"""Steps on the board. LOOKED: what was at the store before counts as an earlier group's."""


class ProgramError(Exception):
    """What a program raises, in its own code or in a signal handler."""


class CallFailed(Exception):
    """A call has raised an error of waybill; it is in the records."""


def timeout_of(case: FaultCase) -> float:
    # Processes of other hosts cannot be seen to end before there is a connection.
    unseen = case.ends_unseen or (case.hosts > 1 and case.point.in_rendezvous)
    short = case.fault.stops or (unseen and case.fault is not Fault.SLOW)
    return SHORT_TIMEOUT if short else PATIENT_TIMEOUT


class FaultRank:
    """One process of a case."""

    def __init__(
        self, case: FaultCase, rank: int, board: Board, folder: Path, *, again: bool = False
    ) -> None:
        self.case = case
        self.rank = rank
        self.board = board
        self.folder = folder
        self.again = again  # started in place of a victim that was killed
        self.everyone = tuple(range(case.num_ranks))
        self.is_victim = rank == case.victim and not again
        self.is_late = case.raises_in_wait and rank == case.late
        self.in_operator = False
        self.in_hook = False
        self.in_record = False
        self.armed = False  # the call that is hit is under way
        self.expects_alarm = False
        self.stage = "warm"
        self.number = 0
        self.phases = dict(enumerate(_library.PHASES))
        suffix = "-again" if again else ""
        self.records = open(folder / f"records-{rank}{suffix}", "a")  # noqa: SIM115

    @property
    def timeout(self) -> float:
        return timeout_of(self.case)

    def record(self, what: str, **fields: Any) -> None:
        line = {"what": what, "stage": self.stage, **fields}
        self.in_record = True  # a signal handler's own record must not come in between
        self.records.write(json.dumps(line) + "\n")
        self.records.flush()
        self.in_record = False

    def reach(self, step: int) -> None:
        self.board.step[self.rank] = step

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, PATIENCE, what)

    # Being hit

    def act(self) -> None:
        """The fault, where it does not have to wait for a moment that suits it."""
        fault = self.case.fault
        self.record("hit", phase=self.phases[self.board.phase[self.rank]])
        if fault in (Fault.KILL, Fault.RESTART):
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.stops:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault is Fault.SLOW:
            time.sleep(SLOW_SECONDS)
        elif self.in_operator and fault is Fault.EXIT:
            os._exit(0)
        elif fault is Fault.EXIT:
            raise SystemExit(0)
        elif self.in_operator:
            self.expects_alarm = True
            os.kill(os.getpid(), signal.SIGALRM)
        else:
            raise ProgramError("in the program")

    def on_alarm(self, *_: Any) -> None:
        """Raises when the moment has come, else looks again soon."""
        if not self.may_raise():
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            return
        self.record("raised", phase=self.phases[self.board.phase[self.rank]])
        raise ProgramError("in a signal handler")

    def may_raise(self) -> bool:
        if self.in_hook or self.in_record:  # ctypes would swallow it
            return False
        if not self.case.raises_in_wait:
            return not self.in_operator
        phase = self.phases[self.board.phase[self.rank]]
        if self.case.point is not Point.WAIT_READERS:
            return phase == "wait-signals"
        near = filter(self.case.is_near, self.everyone)  # the others wait for no reader here
        others = set(near) - {self.case.late, self.rank}
        read = ("wait-readers", "idle")
        return phase == "wait-readers" and all(
            self.phases[self.board.phase[rank]] in read for rank in others
        )

    def on_phase(self, number: int) -> None:
        self.in_hook = True
        self.board.phase[self.rank] = number
        if self.armed and self.case.point.in_call:
            phase = PHASES[self.case.point]
            if self.case.operator == "barrier" and self.case.point is Point.MID_PULL:
                phase = "pull"  # it has no rows
            if self.is_victim and self.phases[number] == phase:
                self.armed = False
                self.act()
            held_at = "pull-rows" if self.case.point is Point.WAIT_READERS else "check"
            if self.is_late and self.phases[number] == held_at:
                self.armed = False
                victim = self.case.victim
                self.wait(lambda: self.board.ended_at[victim] != 0, "the victim ends")
        self.in_hook = False

    # Calls

    def call(self, operator: str, arguments: Arguments) -> Any:
        """Makes one call and writes down how it ended."""
        name = short_name(operator)
        opens, closes = operator.endswith("_setup"), operator.endswith("_teardown")
        is_hit = name == self.case.operator and self.stage == "hit"
        if is_hit and not closes:
            self.armed = True
        begin = time.monotonic()
        try:
            self.in_operator = True
            result = make_call(operator, arguments)
        except waybill.WaybillError as error:
            self.record_call(operator, begin, error)
            raise CallFailed from error
        finally:
            self.in_operator = False
        self.record_call(operator, begin, None)
        if is_hit and not opens:
            self.armed = False
            self.stage = "after"
        if self.expects_alarm:
            time.sleep(PATIENCE)  # the handler ends it
        if is_hit and self.is_victim and opens and self.case.point is Point.BETWEEN_SETUP:
            self.act()
        return result

    def record_call(self, operator: str, begin: float, error: waybill.WaybillError | None) -> None:
        self.record(
            "call",
            operator=short_name(operator),
            opens=operator.endswith("_setup"),
            kind=type(error).__name__ if error else "ok",
            ranks=error.ranks if error else [],
            text=str(error or ""),
            begin=begin,
            end=time.monotonic(),
        )

    def report(self, differences: list[str]) -> None:
        for text in differences:
            self.record("wrong", text=text)

    def round(self, name: str, operator: str, num_ranks: int, members: tuple[int, ...]) -> None:
        turn = Round(operator, num_ranks, members, self.number, self.case.in_place)
        self.number += 1
        rank = (
            self.rank if num_ranks == self.case.num_ranks else self.case.survivors.index(self.rank)
        )
        run_round(turn, name, rank, self.call, self.report)
        self.record("round", members=list(members))

    def rounds(
        self, stage: str, name: str, num_ranks: int, *, members: tuple[int, ...] = ()
    ) -> None:
        """The correct calls after a recovery; among some of the group's ranks with elastic_info."""
        self.stage = stage
        self.number = 1  # the same on all, whatever each has made before
        scaled = bool(members) and len(members) < num_ranks
        # The set-up family has no elastic_info.
        operator = COMBINE if scaled and self.case.is_pair else self.case.operator
        for _ in range(ROUNDS_AFTER):
            self.round(name, operator, num_ranks, members or tuple(range(num_ranks)))

    def reset(self, name: str, stage: str, expected: tuple[int, ...]) -> None:
        """Until the list is the expected one: a rank that came too late is told so once."""
        self.stage = stage
        for _ in range(3):
            begin = time.monotonic()
            try:
                members = waybill.reset(name)
            except waybill.StateError as error:
                self.record("late reset", text=str(error))
                continue
            self.record("reset", members=members, seconds=time.monotonic() - begin)
            if tuple(members) == expected:
                return
            break
        raise CallFailed

    def connect(self, name: str, rank: int, num_ranks: int) -> str:
        store = dist.FileStore(str(self.folder / name))  # without a size it outlives its users
        begin = time.monotonic()
        full_name = f"{self.folder.name}-{name}"
        waits_for_victim = self.stage in ("warm", "after")
        timeout = self.timeout if waits_for_victim else PATIENT_TIMEOUT
        try:
            groups.connect_with_hook(
                store, rank, num_ranks, full_name, timeout, 1, on_phase=self.on_phase
            )
        except waybill.WaybillError as error:
            self.record_call("connect", begin, error)
            raise CallFailed from error
        self.record_call("connect", begin, None)
        return full_name

    # Lives

    def live(self) -> None:
        signal.signal(signal.SIGALRM, self.on_alarm)
        if self.case.hosts > 1:
            # To enter a host takes longer for some: that must not count as being late.
            begun = self.board.words[MAX_RANKS : 2 * MAX_RANKS]
            begun[self.rank] = 1
            self.wait(lambda: sum(begun) == self.case.num_ranks, "all are on their hosts")
        before = level()
        if self.again:
            self.come_back()
        elif self.case.point.in_rendezvous:
            self.meet()
        else:
            self.work()
        self.reach(DONE)
        self.record_level("level", before)

    def record_level(
        self, what: str, before: dict[str, int], kinds: Sequence[str] = tuple(SLACK)
    ) -> None:
        gc.collect()
        after = level()
        self.record(what, before=before, after=after, growth=growth(before, after, kinds))

    def work(self) -> None:
        """A group, a round, the round with the fault, and what comes after it."""
        name = self.connect("first", self.rank, self.case.num_ranks)
        self.round(name, self.case.operator, self.case.num_ranks, self.everyone)
        self.reach(CONNECTED)
        self.wait(lambda: self.board.all_at(self.everyone, CONNECTED), "all are connected")
        self.stage = "hit"
        before = level()
        if self.case.point is Point.BETWEEN_CALLS:
            self.stage = "after"
            if self.is_victim:
                self.act()
        if self.case.fault is Fault.SLOW:
            for _ in range(1 + ROUNDS_AFTER):
                self.round(name, self.case.operator, self.case.num_ranks, self.everyone)
        else:
            self.fail(name)
            name = self.recover(name)
            if self.stage == "whole":
                # What was mapped of a rank that was replaced is mapped no more.
                self.record_level("held", before, ("descriptors", "memory files"))
        waybill.release(name)

    def fail(self, name: str) -> None:
        """Rounds until a call fails."""
        with contextlib.suppress(CallFailed):
            for _ in range(4):
                self.round(name, self.case.operator, self.case.num_ranks, self.everyone)
        self.reach(FAILED)

    def recover(self, name: str) -> str:
        """Resets and calls after the failure; the group that is there in the end."""
        case, board = self.case, self.board
        if case.hosts > 1 and not self.is_victim:
            # A rank that got the victim's rows may be in a later call than one that did not.
            self.wait(lambda: board.all_at(case.survivors, FAILED), "all have failed")
        if case.fault is Fault.PAUSE:
            self.wait(lambda: board.all_at(self.everyone, FAILED), "the victim fails")
        elif self.is_victim:
            # It failed since the others went on; now it asks them back.
            self.wait(lambda: board.all_at(case.survivors, SHRUNK), "the others have shrunk")
        else:
            if case.shrinks:
                self.reset(name, "shrink", case.survivors)
                self.rounds("shrunk", name, case.num_ranks, members=case.survivors)
                self.reach(SHRUNK)
            if case.fault.stops:
                self.wait(lambda: board.step[case.victim] >= FAILED, "the victim fails")
            elif case.fault is Fault.RESTART:
                self.take_in(name)
            else:
                return self.regroup(name)
        self.reset(name, "return", self.everyone)
        self.rounds("whole", name, case.num_ranks)
        return name

    def regroup(self, name: str) -> str:
        """The set-up family goes on in a group of the survivors alone."""
        if not self.case.is_pair:
            return name
        survivors = self.case.survivors
        waybill.release(name)
        self.stage = "regroup"
        second = self.connect("second", survivors.index(self.rank), len(survivors))
        self.rounds("regroup", second, len(survivors))
        return second

    def meet(self) -> None:
        """The fault comes before there is a group."""
        case = self.case
        self.stage = "after"
        try:
            with self.fault_in_connect():
                name = self.connect("first", self.rank, case.num_ranks)
        except CallFailed:
            name = ""
        if case.fault is Fault.SLOW:
            self.rounds("whole", name, case.num_ranks)
            return waybill.release(name)
        self.reach(FAILED)
        if case.fault is Fault.RESTART:
            return self.meet_again()
        if not self.is_victim and case.fault is not Fault.PAUSE:
            self.wait(lambda: self.board.all_at(case.survivors, FAILED), "all have failed")
            number = case.survivors.index(self.rank)
            self.stage = "regroup"
            name = self.connect("second", number, len(case.survivors))
            self.rounds("regroup", name, len(case.survivors))
            waybill.release(name)
            self.reach(SHRUNK)
        if case.fault.stops:
            self.wait(lambda: self.board.all_at(self.everyone, FAILED), "the victim fails")
            self.stage = "return"
            name = self.connect("third", self.rank, case.num_ranks)
            self.rounds("whole", name, case.num_ranks)
            waybill.release(name)

    @contextlib.contextmanager
    def fault_in_connect(self) -> Iterator[None]:
        """Acts when the victim has posted at the store, or when it has met the others there.

        Survivors say when they have looked at the store once; the victim posts after that, except
        where the others begin only when it has ended.
        """
        case, board = self.case, self.board
        at_store = case.point is Point.STORE
        where: Any = _meeting._Board if at_store else _library
        attribute = "post" if at_store else "connect"
        if not self.is_victim:
            where, attribute = _meeting._Watch, "lost"
            if case.ends_unseen:
                self.wait(lambda: board.ended_at[case.victim] != 0, "the victim ends")
        plain = getattr(where, attribute)

        def look(*arguments: Any, **named: Any) -> Any:
            found = plain(*arguments, **named)
            setattr(where, attribute, plain)
            self.reach(LOOKED)
            return found

        def hit(*arguments: Any, **named: Any) -> None:
            setattr(where, attribute, plain)
            if at_store:
                if not case.ends_unseen:
                    self.wait(lambda: board.all_at(case.survivors, LOOKED), "the others look")
                plain(*arguments, **named)
            self.act()
            if not at_store:
                plain(*arguments, **named)

        setattr(where, attribute, hit if self.is_victim else look)
        try:
            yield
        finally:
            setattr(where, attribute, plain)

    # A process that comes back (Fault.RESTART)

    def take_in(self, name: str) -> None:
        """Waits until the new process asks to be in the group."""
        victim = self.case.victim
        self.wait(lambda: victim in waybill.stats(name)["rejoining"], "the victim is back")

    def come_back(self) -> None:
        self.stage = "return"
        name = self.connect("first", self.rank, self.case.num_ranks)
        self.rounds("whole", name, self.case.num_ranks)
        waybill.release(name)

    def meet_again(self) -> None:
        """All ranks connect a second time, with the store and the name of the first time."""
        self.wait(lambda: self.board.all_at(self.case.survivors, FAILED), "all have failed")
        self.come_back()
