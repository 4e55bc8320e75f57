"""Starts a script in an interpreter in which torch loads waybill.ascend."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

USAGE = """usage: python -m waybill.ascend script.py [arguments]
       python -m waybill.ascend -m module [arguments]

Runs a script that was written for the accelerator (torch_npu, torchair, device "npu", backend
"hccl") on CPUs, without a change to it. docs/ascend.md says what is covered.

Under torchrun:  python -m waybill.ascend -m torch.distributed.run --nproc-per-node 2 script.py
"""

# In a folder of this name Python looks for entry points in EGG-INFO, which build tools leave in
# wheels, as they do not a *.dist-info.
SITE = Path(__file__).parent / "site.egg"


def python_path() -> str:
    """PYTHONPATH of a child: what makes torch load this package, then what was there."""
    folders = [str(SITE)]
    root = str(Path(__file__).resolve().parents[2])
    if root not in (*site.getsitepackages(), site.getusersitepackages()):
        folders.append(root)  # a source tree that was found through the current folder, say
    present = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    folders += [folder for folder in present if folder and folder not in folders]
    return os.pathsep.join(folders)


def prepare_children() -> None:
    os.environ["PYTHONPATH"] = python_path()
    if str(SITE) not in sys.path:
        sys.path.append(str(SITE))


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    prepare_children()
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    # A new interpreter, so that the script is __main__ in every respect: what multiprocessing
    # imports in spawned children, what pickle finds, when the interpreter ends.
    os.execv(sys.executable, [sys.executable, *flags, *words])
