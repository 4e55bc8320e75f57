"""layer.py under torchrun on two hosts that are network namespaces of this machine."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from waybill.tools.namespaces import Network

SCRIPT = Path(__file__).with_name("layer.py")
SECONDS = 180
PORT = 29500


def torchrun(arguments: argparse.Namespace, first: str, host: int) -> list[str]:
    """As one would type it on each host."""
    options = {
        "--nnodes": arguments.hosts,
        "--node-rank": host,
        "--master-addr": first,
        "--master-port": PORT,
        "--nproc-per-node": arguments.ranks_per_host,
    }
    words = [str(word) for option in options.items() for word in option]
    return [sys.executable, "-m", "torch.distributed.run", *words, str(SCRIPT)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--ranks-per-host", type=int, default=2)
    arguments = parser.parse_args()
    reason = Network.available()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    with Network(arguments.hosts) as network:
        launched = [
            subprocess.Popen(network.command(host, torchrun(arguments, network.address(0), host)))
            for host in range(arguments.hosts)
        ]
        try:
            return max(launcher.wait(SECONDS) for launcher in launched)
        finally:
            for launcher in launched:
                launcher.kill()


if __name__ == "__main__":
    sys.exit(main())
