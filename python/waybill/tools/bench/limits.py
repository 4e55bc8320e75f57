"""What a link between two hosts of a network carries at most, by plain streams."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..namespaces import Network

SECONDS = 1.0
TRIES = 40
MESSAGE_BYTES = 57344
UCX_PORT = 13337
STREAM_PORT = 5201
WINDOW = 1 << 20

_SINK = """
import socket, time
server = socket.create_server(("", {port}))
peer, _ = server.accept()
begin, count = time.monotonic(), 0
while chunk := peer.recv({window}):
    count += len(chunk)
print(count * 8 / (time.monotonic() - begin))
"""
_SOURCE = """
import socket, time
peer = socket.create_connection(("{address}", {port}))
chunk, end = bytes({window}), time.monotonic() + {seconds}
while time.monotonic() < end:
    peer.sendall(chunk)
"""


@dataclass(frozen=True)
class Limit:
    """Bits per second from one host to another."""

    tool: str
    bits_per_second: float


def measure_limits(network: Network) -> list[Limit]:
    """From host 0 to host 1; by the tools that are installed, else a stream of our own."""
    found = []
    if shutil.which("iperf3"):
        server = ["iperf3", "-s", "-1"]
        client = ["iperf3", "-c", network.address(1), "-t", str(int(max(SECONDS, 1))), "-J"]
        text = _both(network, server, client)[1]
        received = json.loads(text).get("end", {}).get("sum_received")
        if received:
            found.append(Limit("iperf3, one stream", float(received["bits_per_second"])))
    else:
        sink = _SINK.format(port=STREAM_PORT, window=WINDOW)
        source = _SOURCE.format(
            address=network.address(1), port=STREAM_PORT, window=WINDOW, seconds=SECONDS
        )
        text = _both(network, _python(sink), _python(source))[0]
        found.append(Limit("a socket", float(text)))
    if shutil.which("ucx_perftest"):
        found += _measure_ucx(network)
    return found


def _measure_ucx(network: Network) -> list[Limit]:
    """A stream of messages as long as those that carry rows."""
    rate = network.rate or 20e9
    count = max(int(rate * SECONDS / 8 / MESSAGE_BYTES), 100)
    test = ["env", "UCX_TLS=tcp", f"UCX_NET_DEVICES={network.device(0)}", "ucx_perftest"]
    test += ["-p", str(UCX_PORT)]
    what = ["-t", "ucp_am_bw", "-s", str(MESSAGE_BYTES), "-n", str(count), "-w", "10", "-f"]
    text = _both(network, test, [*test, network.address(1), *what])[1]
    # The last line: iterations, three times in us, then on average and overall MB/s (2^20 bytes)
    # and messages a second.
    lines = re.findall(r"^(?:Final:)?\s*(\d+(?:\s+[\d.]+){7})\s*$", text, re.MULTILINE)
    if not lines:
        return []
    fields = lines[-1].split()
    return [Limit("ucx_perftest, am", float(fields[-3]) * 2**20 * 8)]


def _python(program: str) -> list[str]:
    return [shutil.which("python3") or "python3", "-c", program]


def _both(network: Network, server: Sequence[str], client: Sequence[str]) -> tuple[str, str]:
    """Runs a server on host 1 and its client on host 0; what each wrote."""
    with subprocess.Popen(
        network.command(1, server), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as serving:
        try:
            for _ in range(TRIES):  # until the server listens
                done = subprocess.run(
                    network.command(0, client), capture_output=True, text=True, timeout=60
                )
                failed = done.returncode != 0 or '"error"' in done.stdout  # iperf3's JSON
                if not failed:
                    break
                time.sleep(0.1)
            written = "" if failed else serving.communicate(timeout=20)[0]
        finally:
            serving.kill()
    if failed:
        raise OSError(f"{client[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return written, done.stdout
