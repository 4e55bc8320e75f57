"""Runs a case of link_cases.py: its ranks on hosts of their own, whose switch it commands."""

from __future__ import annotations

import itertools
import signal
import time

from fault_cases import COMBINE
from fault_judge import Record
from fault_layers import prepare
from fault_ranks import FAILED
from fault_runs import CaseRun
from link_cases import LinkCase, LinkFault
from link_judge import judge
from link_ranks import ASKED, HEALED, HOLDS, LinkRank
from links import SwitchedNetwork

DELAY_SECONDS = 0.1
LOSS = 0.05
SLOW_BITS_PER_SECOND = 20e6
SHORT_CUT_SECONDS = 0.5


class LinkRun(CaseRun):
    case: LinkCase

    def __init__(self, case: LinkCase) -> None:
        super().__init__(case)
        self.healed = False
        assert isinstance(self.network, SwitchedNetwork)
        self.links = self.network

    @staticmethod
    def make_network(case: LinkCase) -> SwitchedNetwork:
        return SwitchedNetwork(case.hosts, offload=case.fault is not LinkFault.LOSS)

    @staticmethod
    def prepare(case: LinkCase) -> None:
        everyone = tuple(range(case.num_ranks))
        prepare(case.operator, case.num_ranks, everyone, case.in_place)
        if case.fault.ends_calls and not case.heals:
            operator = COMBINE if case.is_pair else case.operator
            for side in (case.inside, case.outside):
                prepare(operator, case.num_ranks, side, case.in_place)

    def make_rank(self, rank: int, *, again: bool = False) -> LinkRank:
        return LinkRank(self.case, rank, self.board, self.folder, again=again)

    def help_victim(self) -> None:
        words, fault = self.board.words, self.case.fault
        if words[0] == ASKED:
            self.begin_fault()
            words[1] = time.monotonic_ns()
            words[0] = HOLDS
        if words[0] != HOLDS or self.healed:
            return
        since = (time.monotonic_ns() - words[1]) / 1e9
        if fault is LinkFault.SHORT_CUT:
            if since >= SHORT_CUT_SECONDS:
                self.heal()
        elif self.case.heals and self.board.all_at(range(self.case.num_ranks), FAILED):
            self.heal()
            words[0] = HEALED

    def begin_fault(self) -> None:
        fault, host = self.case.fault, self.case.host_hit
        others = [other for other in range(self.case.hosts) if other != host]
        if fault in (LinkFault.ISOLATE, LinkFault.KEEPALIVE, LinkFault.SHORT_CUT):
            self.links.isolate(host)
        elif fault is LinkFault.LINK_DOWN:
            self.links.set_link(host, False)
        elif fault is LinkFault.LOST_HOST:
            for rank in self.case.inside:
                self.send(rank, signal.SIGKILL)
        elif fault is LinkFault.SLOW_LINK:
            ends = itertools.chain.from_iterable([(host, o), (o, host)] for o in others)
            self.links.limit(ends, SLOW_BITS_PER_SECOND)
        for other in others:
            if fault is LinkFault.CUT_OUT:
                self.links.cut(host, other)
            elif fault is LinkFault.CUT_IN:
                self.links.cut(other, host)
            elif fault is LinkFault.DELAY:
                self.links.delay(host, other, DELAY_SECONDS, both=True)
            elif fault is LinkFault.LOSS:
                self.links.loss(host, other, LOSS, both=True)

    def heal(self) -> None:
        self.healed = True
        if self.case.fault is LinkFault.LINK_DOWN:
            self.links.set_link(self.case.host_hit, True)
        self.links.restore()

    def judged(self, records: dict[int, list[Record]]) -> list[str]:
        found = judge(self.case, records, self.board.words[1] / 1e9, self.statuses)
        self.links.close()
        return found
