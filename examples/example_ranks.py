"""Starts the ranks of an example, as a launcher such as torchrun would: one process for each.

A program of your own needs none of this: under torchrun it calls `init_process_group` and then
`waybill.comm_name()`, as the example in the README does.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.distributed import FileStore

Run = Callable[[int, int, FileStore], str]


def _live(run: Run, rank: int, size: int, path: str, answers: Connection) -> None:
    torch.set_num_threads(1)
    answers.send(run(rank, size, FileStore(path)))


def start(run: Run, size: int) -> None:
    """Calls run(rank, size, store) in `size` processes and prints what they return, by rank.

    The store is where the ranks meet. A rank that ends without an answer is not mentioned; one that
    fails ends the example with an error.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "store")
        ranks = []
        for rank in range(size):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_live, args=(run, rank, size, path, there))
            process.start()
            there.close()
            ranks.append((process, here))
        failed = False
        for rank, (process, answers) in enumerate(ranks):
            try:
                print(f"rank {rank}: {answers.recv()}")
            except EOFError:
                process.join()
                failed |= process.exitcode == 1  # an exception: Python has printed it
            process.join()
    sys.exit(failed)
