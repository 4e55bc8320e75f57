"""Trains the model on the standard library and writes weights.safetensors.

    python examples/tiny_moe/train.py --minutes 15

The length is given in minutes, and the schedule follows the clock, so that training fits into the
time at hand on any machine. Two runs therefore do not give the same weights.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import corpus
import torch
import torch.nn.functional as F
from model import WEIGHTS, Config, Exchange, TinyMoE, TrainingExchange
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for parameters that are (stacks of) matrices.

    All directions of a matrix learn at the same speed, which in a short training is worth a good
    part of the steps that AdamW needs.
    """

    def __init__(self, parameters: list[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": 0.1})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["velocity"] = torch.zeros_like(parameter)
                velocity = state["velocity"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(velocity, group["momentum"]))
                rows, columns = parameter.shape[-2:]
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with all singular values near 1, by five Newton-Schulz iterations."""
    x = matrix.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).to(matrix.dtype)


def bits_per_byte(
    model: TinyMoE, text: Tensor, exchange: Exchange | None = None, batch: int = 16
) -> float:
    """Mean loss over `text`, cut into windows as long as the model's context."""
    exchange = exchange or TrainingExchange()
    window = model.config.context
    count = (len(text) - 1) // window
    inputs = text[: count * window].view(count, window).long()
    targets = text[1 : count * window + 1].view(count, window).long()
    total = 0.0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for rows, wanted in zip(inputs.split(batch), targets.split(batch), strict=True):
            logits = model(rows, exchange).float()
            total += F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum").item()
    return total / (count * window) / math.log(2)


def optimizers(model: TinyMoE, name: str, lr: float) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or ("muon") Muon for the matrices inside the blocks."""
    inner, outer = [], []
    for key, parameter in model.named_parameters():
        matrix = key.startswith("blocks") and parameter.ndim > 1 and not key.endswith("router")
        (inner if matrix and name == "muon" else outer).append(parameter)
    adam = torch.optim.AdamW(outer, lr, betas=(0.9, 0.95), weight_decay=0.05)
    return [adam, Muon(inner, 6 * lr)] if inner else [adam]


def schedule(progress: float) -> float:
    """Factor of the learning rate at a point (0..1) of the training: warm-up, then cosine."""
    if progress < 0.02:
        return progress / 0.02
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


def balance(model: TinyMoE, exchange: TrainingExchange, rate: float) -> None:
    """Makes experts with little work likelier to be chosen, and busy ones less."""
    for index, block in enumerate(model.blocks):
        load = exchange.load[index].float()
        block.moe.balance.add_(rate * (1 - load / load.mean()).clamp(-1, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=15, help="how long to train")
    parser.add_argument("--steps", type=int, help="train this many steps instead")
    parser.add_argument("--batch", type=int, default=16, help="texts of 256 bytes in a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-every", type=int, default=250, metavar="STEPS")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    console = Console()
    text = corpus.load()
    held_out = corpus.load(held_out=True)
    # Spread over the held-out files, small enough to look at often.
    windows = held_out[: len(held_out) // 256 * 256].view(-1, 256)
    sample = windows[:: max(1, len(windows) // 192)].flatten()

    config = Config()
    model = TinyMoE(config)
    exchange = TrainingExchange()
    active = optimizers(model, args.optimizer, args.lr)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in active]
    parameters = sum(p.numel() for p in model.parameters())
    console.print(f"{parameters:,} parameters, {len(text):,} bytes to learn from")

    def save(validation: float, steps: int) -> None:
        seen = steps * args.batch * config.context
        model.save(args.output, validation_bits_per_byte=f"{validation:.4f}", bytes_seen=str(seen))

    columns = (
        TextColumn("{task.fields[status]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    begin = time.monotonic()
    average = 0.0
    step = 0
    offsets = torch.arange(config.context + 1)
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=1.0, status="starting")
        while True:
            elapsed = time.monotonic() - begin
            progress = step / args.steps if args.steps else elapsed / (60 * args.minutes)
            if progress >= 1:
                break
            factor = schedule(progress)
            for optimizer, peak in zip(active, peaks, strict=True):
                optimizer.param_groups[0]["lr"] = peak * factor
                optimizer.zero_grad()
            start = torch.randint(len(text) - config.context, (args.batch, 1))
            window = text[start + offsets].long()
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(window[:, :-1], exchange)
            loss = F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in active:
                optimizer.step()
            balance(model, exchange, 0.01 * factor)

            step += 1
            bits = loss.item() / math.log(2)
            average = bits if step == 1 else 0.98 * average + 0.02 * bits
            bar.update(task, completed=progress, status=f"step {step}  {average:.3f} bits/byte")
            if step % args.eval_every == 0:
                validation = bits_per_byte(model, sample)
                share = torch.stack(list(exchange.load.values())).float()
                share = share / share.sum(-1, keepdim=True)
                console.print(
                    f"step {step:5d}  {time.monotonic() - begin:5.0f} s  train {average:.3f}  "
                    f"validation {validation:.3f} bits/byte  "
                    f"expert load {share.min():.3f}..{share.max():.3f}"
                )
                save(validation, step)

    # Judge what is stored, which is rounded to bfloat16.
    save(0.0, step)
    validation = bits_per_byte(TinyMoE.load(args.output), held_out)
    save(validation, step)
    minutes = (time.monotonic() - begin) / 60
    console.print(
        f"{step} steps in {minutes:.1f} minutes; validation {validation:.3f} bits/byte over "
        f"{len(held_out):,} held-out bytes; wrote {args.output}"
    )


if __name__ == "__main__":
    main()
