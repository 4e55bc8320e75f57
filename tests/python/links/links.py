"""Links that fail: a network whose switch is a process that tests command.

    with SwitchedNetwork(3) as network:
        network.cut(0, 1)  # what host 0 sends to host 1 is lost; the other direction works
        network.heal(0, 1)
        network.delay(0, 2, 0.01, both=True)

The switch carries some hundred MB/s: it is for faults, not for speed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from waybill.tools.namespaces import DEVICE, Network, NetworkError

PATIENCE = 10.0
Ends = tuple[int, int]


class SwitchedNetwork(Network):
    """`num_hosts` hosts at a switch that can lose, hold back and slow down what it carries.

    offload: frames may be as large as the kernel makes them for TCP (64 KiB), which is fast.
    Without it they have 1500 bytes, and `loss` means packets. A command holds for what is sent
    after its method returned, and not for what was sent before it was called. The thread that makes
    the network has to outlive it: the switch ends with that thread.
    """

    def __init__(
        self, num_hosts: int, rate: float | None = None, *, offload: bool = True, **options: Any
    ) -> None:
        self._offload = offload
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        super().__init__(num_hosts, rate, **options)
        if rate is not None:
            self.limit(self.links(), rate)

    @staticmethod
    def available() -> str | None:
        return Network.available() or _why_not()

    # Commands

    def cut(self, a: int, b: int, *, both: bool = False) -> None:
        """What a sends to b is lost, also what is under way."""
        self._set(_ends(a, b, both), cut=True)

    def heal(self, a: int, b: int, *, both: bool = False) -> None:
        self._set(_ends(a, b, both), cut=False)

    def isolate(self, host: int) -> None:
        """Cuts all links of a host, in both directions."""
        self._set(self._links_of(host), cut=True)

    def rejoin(self, host: int) -> None:
        self._set(self._links_of(host), cut=False)

    def delay(self, a: int, b: int, seconds: float, *, both: bool = False) -> None:
        self._set(_ends(a, b, both), delay=seconds)

    def loss(
        self, a: int, b: int, probability: float, seed: int = 0, *, both: bool = False
    ) -> None:
        """Frames are lost at random, the same ones for the same seed and the same frames."""
        self._set(_ends(a, b, both), loss=probability, seed=seed)

    def limit(self, links: Iterable[Ends], rate: float | None) -> None:
        """Bits per second of each of these links, pairs of hosts; None: no limit."""
        self._set(links, rate=rate)

    def restore(self) -> None:
        """All links are as new; rates are those the network was made with."""
        self._set(self.links(), cut=False, delay=0.0, loss=0.0, rate=self.rate)

    def counts(self, a: int, b: int) -> dict[str, int]:
        """carried_frames, carried_bytes and dropped_frames from a to b."""
        return self._set([(a, b)])[0]

    def links(self) -> list[Ends]:
        return list(itertools.permutations(range(self.num_hosts), 2))

    def _links_of(self, host: int) -> list[Ends]:
        return [ends for ends in self.links() if host in ends]

    # The process

    def _link(self) -> None:
        """Gives each host a TAP device; its other end is the switch."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(PATIENCE)
        options = {
            "hosts": self._namespaces,
            "user": self._user,
            "control": theirs.fileno(),
            "prefix": self.hosts[0].mac.rpartition(":")[0],
            "device": DEVICE,
            "offload": self._offload,
        }
        user = [] if self._user is None else [self._user]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-E", _program(), json.dumps(options)],
                pass_fds=[*self._namespaces, *user, theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        self._receive()

    def _set(self, ends: Iterable[Ends], **settings: Any) -> list[dict[str, int]]:
        assert self._control is not None, "the network is closed"
        with contextlib.suppress(ConnectionError):  # _receive() has the reason
            self._control.send(json.dumps({"ends": list(ends), **settings}).encode())
        answer = json.loads(self._receive())
        if "error" in answer:
            raise NetworkError(answer["error"])
        return answer

    def _receive(self) -> bytes:
        assert self._control is not None and self._process is not None
        message = self._control.recv(1 << 16)
        if not message:
            _, text = self._process.communicate(timeout=PATIENCE)
            raise NetworkError(f"the switch has ended: {text.decode().strip()}")
        return message

    def close(self) -> None:
        if self._control is not None:
            self._control.shutdown(socket.SHUT_RDWR)  # forked processes may hold it, too
            self._control.close()
            self._control = None
        if self._process is not None:
            with self._process as process:
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
            self._process = None
        super().close()


def _ends(a: int, b: int, both: bool) -> list[Ends]:
    return [(a, b), (b, a)] if both else [(a, b)]


def _program() -> str:
    return str(Path(__file__).with_name("link_switch.py"))


@functools.cache
def _why_not() -> str | None:
    try:
        with SwitchedNetwork(2):
            return None
    except (NetworkError, OSError) as error:
        return f"TAP devices are not permitted here: {str(error).splitlines()[-1]}"
