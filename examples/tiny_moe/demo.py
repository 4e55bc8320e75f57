"""Eight processes write text together: each holds two of the sixteen experts of every layer.

    waybill demo
    python examples/tiny_moe/demo.py --bytes 200

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
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "bench")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from distributed import WaybillExchange, count_rows  # noqa: E402
from model import LocalExchange, TinyMoE, generate  # noqa: E402
from prompts import PROMPTS  # noqa: E402
from report import Report, Screen, save_heat_map, save_routing  # noqa: E402
from timing import time_exchanges  # noqa: E402

import waybill  # noqa: E402

RECORDED_CALLS = 12
JOIN_SECONDS = 60
SEED = 3


def run_rank(rank: int, ranks: int, new_tokens: int, folder: str, out: Any) -> None:
    """One process: generates its text, sends each byte, then its numbers."""
    torch.set_num_threads(1)
    try:
        store = dist.FileStore(os.path.join(folder, "store"), ranks)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
        group = waybill.comm_name(timeout=60)
        exchange = WaybillExchange(group, rank, ranks, record=RECORDED_CALLS)
        model = TinyMoE.load()
        steps = generate(model, [PROMPTS[rank]], exchange, new_tokens, seed=SEED, ranks=[rank])
        with torch.no_grad():
            for (new,) in steps:
                out.put(("byte", rank, new))
        stats = waybill.stats(group)
        sent = count_rows(exchange.routing, model.config.experts, ranks)
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


def text_of_one_process(new_tokens: int) -> list[bytes]:
    texts = [b""] * len(PROMPTS)
    with torch.no_grad():
        for step in generate(TinyMoE.load(), PROMPTS, LocalExchange(), new_tokens, seed=SEED):
            texts = [text + new for text, new in zip(texts, step, strict=True)]
    return texts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="waybill demo", description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=160, help="bytes that each rank writes")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder for the PNG")
    parser.add_argument("--record", type=Path, help="save the routing of this run to this file")
    arguments = parser.parse_args(argv)
    ranks = len(PROMPTS)
    torch.set_num_threads(1)
    context = mp.get_context("fork")
    out = context.Queue()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Screen(ranks, arguments.bytes) as screen:
        processes = [
            context.Process(
                target=run_rank, args=(rank, ranks, arguments.bytes, folder, out), daemon=True
            )
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        texts, results = collect(out, ranks, screen)
        for process in processes:
            process.join(JOIN_SECONDS)
    report = Report(ranks, results)
    report.seconds(time.monotonic() - begin)
    report.text(texts, text_of_one_process(arguments.bytes))
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
