"""Eight processes write text together: each holds two of the sixteen experts of every layer.

    waybill demo
    python examples/tiny_moe/demo.py --bytes 200
    waybill demo --redundant 4      # replicas of the hottest experts, chosen by update_expert
    waybill demo --overlap          # setup, the shared expert, teardown
    waybill demo --lose-rank 5      # half way, go on without a rank by elastic_info
    waybill demo --hosts 2          # the ranks on two hosts, which are network namespaces

Then it shows that the text is the one that a single process writes, that dispatch and combine
equal the oracle bit for bit, what the exchange costs beside the same one over gloo, who got how
many rows from whom, and which experts carried the load.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from distributed import WaybillExchange  # noqa: E402
from model import Text, TinyMoE, advance  # noqa: E402
from placement import PlacedLocalExchange, Placement, place  # noqa: E402
from prompts import PROMPTS  # noqa: E402
from report import Report, Screen, save_heat_map, save_routing  # noqa: E402
from timing import time_exchanges  # noqa: E402

import waybill  # noqa: E402
from waybill.tools.namespaces import Host, Network  # noqa: E402

RECORDED_CALLS = 12
JOIN_SECONDS = 60
SEED = 3


@dataclass(frozen=True)
class Mode:
    """What the options ask for."""

    ranks: int
    new_tokens: int
    redundant: int
    overlap: bool
    lost: int | None
    hosts: int

    def host_of(self, rank: int) -> int:
        """Ranks lie on the hosts one behind the other."""
        return rank * self.hosts // self.ranks

    @property
    def lost_after(self) -> int:
        """Steps that all ranks make together."""
        return self.new_tokens if self.lost is None else self.new_tokens // 2

    def placement(self, model: TinyMoE) -> Placement:
        config = model.config
        return place(config.experts, config.layers, self.ranks, self.redundant)


def write_text(model: TinyMoE, exchange: WaybillExchange, rank: int, mode: Mode) -> Iterator[bytes]:
    """The bytes of one rank; the lost one stops half way."""
    text = Text(model, PROMPTS[rank], mode.new_tokens, SEED * 1000 + rank)
    for step in range(mode.new_tokens):
        if step == mode.lost_after and mode.lost is not None:
            if rank == mode.lost:
                return
            exchange.lose(mode.lost, model)
        yield advance(model, [text], exchange)[0]


def run_rank(rank: int, mode: Mode, folder: str, out: Any, host: Host | None) -> None:
    """One process: generates its text, sends each byte, then its numbers."""
    ranks = mode.ranks
    torch.set_num_threads(1)
    try:
        if host is not None:
            host.enter()
            os.environ["GLOO_SOCKET_IFNAME"] = host.device
        store = dist.FileStore(os.path.join(folder, "store"), ranks)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
        group = waybill.comm_name(timeout=60)
        model = TinyMoE.load()
        placement = mode.placement(model)
        exchange = WaybillExchange(group, rank, placement, mode.overlap, RECORDED_CALLS)
        with torch.no_grad():
            for new in write_text(model, exchange, rank, mode):
                out.put(("byte", rank, new))
        stats = waybill.stats(group)
        if mode.lost is not None:
            # The one that was left out knows nothing of the calls since.
            dist.barrier()
            assert waybill.reset(group) == list(range(ranks))
        sent = exchange.rows_sent
        times = time_exchanges(model, exchange, rank, ranks)
        # By value: a tensor in a queue is a file that ends with this process.
        numbers = pickle.dumps((exchange.recorded, exchange.routing, stats, sent, times))
        out.put(("done", rank, numbers))
        dist.barrier()
        waybill.release(group)
        dist.destroy_process_group()
    except Exception as error:
        out.put(("error", rank, f"{type(error).__name__}: {error}"))
        raise


def collect(out: Any, ranks: int, screen: Screen) -> tuple[list[bytes], list[Any]]:
    """Shows the bytes as they come; the texts and what each rank sent at its end."""
    texts = [b""] * ranks
    results: list[Any] = [None] * ranks
    while any(result is None for result in results):
        kind, rank, content = out.get(timeout=JOIN_SECONDS)
        if kind == "error":
            raise SystemExit(f"rank {rank}: {content}")
        if kind == "byte":
            texts[rank] += content
            screen.show(rank, PROMPTS[rank] + texts[rank])
        else:
            results[rank] = pickle.loads(content)
    return texts, results


def text_of_one_process(mode: Mode) -> list[bytes]:
    """The same in this process alone."""
    model = TinyMoE.load()
    placement = mode.placement(model)
    exchange = PlacedLocalExchange(placement)
    texts = [
        Text(model, PROMPTS[rank], mode.new_tokens, SEED * 1000 + rank)
        for rank in range(mode.ranks)
    ]
    with torch.no_grad():
        for step in range(mode.new_tokens):
            going_on = [t for rank, t in enumerate(texts) if rank != mode.lost]
            if step == mode.lost_after:
                for block in model.blocks:
                    block.moe.available[lost_experts(mode, placement)] = False
            advance(model, texts if step < mode.lost_after else going_on, exchange)
    return [bytes(t.data[len(PROMPTS[rank]) :]) for rank, t in enumerate(texts)]


def lost_experts(mode: Mode, placement: Placement) -> list[int]:
    return [] if mode.lost is None else placement.of_rank(0, mode.lost)


def read_options(argv: list[str] | None) -> tuple[argparse.Namespace, Mode]:
    experts = 16
    parser = argparse.ArgumentParser(prog="waybill demo", description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=160, help="bytes that each rank writes")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder for the PNG")
    parser.add_argument("--record", type=Path, help="save the routing of this run to this file")
    parser.add_argument(
        "--experts-per-rank",
        type=int,
        default=2,
        choices=[2, 4, 8, 16],
        help="experts that each rank holds of every layer's 16; the ranks follow from it",
    )
    parser.add_argument(
        "--redundant",
        type=int,
        default=0,
        metavar="N",
        help="replicas of each layer's N hottest experts on other ranks (update_expert)",
    )
    parser.add_argument(
        "--overlap",
        action="store_true",
        help="compute the shared expert between setup and teardown",
    )
    parser.add_argument(
        "--lose-rank",
        type=int,
        metavar="R",
        help="go on without rank R from half of the bytes on (elastic_info)",
    )
    parser.add_argument(
        "--hosts",
        type=int,
        default=1,
        help="spread the ranks over so many hosts (network namespaces of this machine)",
    )
    arguments = parser.parse_args(argv)
    ranks = experts // arguments.experts_per_rank
    if not 0 <= arguments.redundant <= experts or (ranks == 1 and arguments.redundant):
        parser.error(f"--redundant: expected 0 to {experts}, and more than one rank")
    if arguments.lose_rank is not None:
        if not 0 <= arguments.lose_rank < ranks or ranks == 1:
            parser.error(f"--lose-rank: expected a rank from 0 to {ranks - 1}, and another one")
        if arguments.overlap or arguments.redundant:
            parser.error("--lose-rank: the set-up family has no elastic_info, and replicas move")
    if not 1 <= arguments.hosts <= ranks:
        parser.error(f"--hosts: expected 1 to {ranks}, one rank or more on each")
    reason = Network.available() if arguments.hosts > 1 else None
    if reason is not None:
        parser.error(f"--hosts: {reason}")
    mode = Mode(
        ranks,
        arguments.bytes,
        arguments.redundant,
        arguments.overlap,
        arguments.lose_rank,
        arguments.hosts,
    )
    return arguments, mode


def main(argv: list[str] | None = None) -> int:
    arguments, mode = read_options(argv)
    ranks = mode.ranks
    torch.set_num_threads(1)
    context = mp.get_context("fork")
    out = context.Queue()
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        Screen(ranks, arguments.bytes) as screen,
        Network(mode.hosts) if mode.hosts > 1 else nullcontext() as network,
    ):
        hosts = [network.hosts[mode.host_of(rank)] if network else None for rank in range(ranks)]
        processes = [
            context.Process(
                target=run_rank, args=(rank, mode, folder, out, hosts[rank]), daemon=True
            )
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        texts, results = collect(out, ranks, screen)
        for process in processes:
            process.join(JOIN_SECONDS)
    report = Report(mode, results)
    report.seconds(time.monotonic() - begin)
    report.text(texts, text_of_one_process(mode))
    report.oracle()
    report.traffic()
    report.times()
    report.heat_map()
    arguments.out.mkdir(parents=True, exist_ok=True)
    picture = arguments.out / "experts.png"
    save_heat_map(results, picture)
    report.note(f"heat map: {picture}")
    if arguments.record:
        save_routing(results, arguments.record)
        report.note(f"routing: {arguments.record}")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
