"""Continues a text with the model, in one process.

    python examples/tiny_moe/generate.py --prompt "def "
    python examples/tiny_moe/generate.py --group

With --group, eight texts are written side by side as eight ranks would write them, and shown one
after another.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from model import WEIGHTS, LocalExchange, TinyMoE, generate
from prompts import PROMPTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompt", default="def ", help="beginning of the text")
    parser.add_argument("--group", action="store_true", help="continue the eight built-in prompts")
    parser.add_argument("--bytes", type=int, default=400, help="how many bytes to add")
    parser.add_argument("--temperature", type=float, default=0.6, help="0: always the likeliest")
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    args = parser.parse_args()

    torch.set_num_threads(1)
    model = TinyMoE.load(args.weights)
    prompts = PROMPTS if args.group else [args.prompt.encode()]
    steps = generate(
        model,
        prompts,
        LocalExchange(),
        args.bytes,
        temperature=args.temperature,
        top_k=args.top_k,
        seed=args.seed,
    )
    if args.group:
        texts = [bytearray(prompt) for prompt in prompts]
        for step in steps:
            for text, new in zip(texts, step, strict=True):
                text += new
        for rank, text in enumerate(texts):
            print(f"--- rank {rank} ---\n{text.decode()}\n")
        return
    sys.stdout.write(args.prompt)
    for (new,) in steps:
        sys.stdout.write(new.decode())
        sys.stdout.flush()
    print()


if __name__ == "__main__":
    main()
