"""The process of links.SwitchedNetwork: carries Ethernet frames between hosts, or fails to.

    python link_switch.py '{"hosts": [3, 4], "user": null, "control": 5, "prefix": "02:77:00:00:00",
                            "device": "eth0", "offload": true}'

`hosts`, `user` and `control` are descriptors: of network namespaces, of their user namespace, of a
SEQPACKET socket. It makes a TAP device in each namespace, answers "ready", then one JSON object for
each that comes in. It ends with whoever started it. Only the standard library is imported: it
starts at once.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

# linux/sched.h, linux/prctl.h, linux/if_tun.h
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4

HEADER = 10  # struct virtio_net_hdr, in front of each frame
TARGET = slice(HEADER, HEADER + 5)  # of the address a frame goes to; the sixth byte is host + 1
MAX_FRAME_BYTES = 1 << 17
BATCH = 64  # frames of one host until the others have their turn
QUEUED_BATCHES = 16  # as many as the queue of a device can hold
MAX_QUEUE_SECONDS = 0.2  # what waits longer for its turn on a link with a rate is dropped


@dataclass
class Link:
    """One direction between two hosts."""

    cut: bool = False
    delay: float = 0.0  # seconds
    loss: float = 0.0  # probability
    rate: float | None = None  # bits per second
    draw: random.Random = field(default_factory=lambda: random.Random(0))
    free_at: float = 0.0  # when the last byte of what was sent is on the wire
    due: float = 0.0  # when the last frame arrives: none overtakes another
    carried_frames: int = 0
    carried_bytes: int = 0
    dropped_frames: int = 0

    @property
    def is_plain(self) -> bool:
        return not (self.cut or self.delay or self.loss or self.rate)

    def due_time(self, num_bytes: int, now: float) -> float | None:
        """When a frame that is sent now arrives; None: never."""
        if self.cut or (self.loss and self.draw.random() < self.loss):
            return None
        begin = max(now, self.free_at)
        if begin - now > MAX_QUEUE_SECONDS:
            return None
        if self.rate:
            begin += num_bytes * 8 / self.rate
            self.free_at = begin
        self.due = max(self.due, begin + self.delay)
        return self.due

    def set(self, **settings: Any) -> None:
        if "seed" in settings:
            self.draw = random.Random(settings.pop("seed"))
        for name, value in settings.items():
            if name not in ("cut", "delay", "loss", "rate"):
                raise ValueError(f"links have no {name!r}")
            setattr(self, name, value)

    def counts(self) -> dict[str, int]:
        names = ("carried_frames", "carried_bytes", "dropped_frames")
        return {name: getattr(self, name) for name in names}


class Switch:
    def __init__(self, taps: list[int], prefix: bytes, control: socket.socket) -> None:
        self.taps = taps
        self.prefix = prefix
        self.control = control
        everyone = range(len(taps))
        self.links = {(a, b): Link() for a in everyone for b in everyone if a != b}
        self.others = [[b for b in everyone if b != a] for a in everyone]
        self.buffer = bytearray(MAX_FRAME_BYTES)
        self.waiting: list[tuple[float, int, tuple[int, int], bytes]] = []
        self.numbers = itertools.count()  # frames that are due at the same time keep their order

    def run(self) -> None:
        poll = select.epoll()
        sources = {tap: number for number, tap in enumerate(self.taps)}
        for descriptor in (self.control.fileno(), *sources):
            poll.register(descriptor, select.EPOLLIN)
        while True:
            for descriptor, _ in poll.poll(self.patience()):
                if descriptor in sources:
                    self.carry(sources[descriptor])
                elif not self.obey():
                    return
            if self.waiting:
                self.deliver()

    def patience(self) -> float:
        """Seconds until the first frame is due; -1: for ever."""
        return max(self.waiting[0][0] - time.monotonic(), 0.0) if self.waiting else -1.0

    def carry(self, source: int) -> bool:
        """Takes frames from a host and sends each on its way; whether there may be more."""
        tap, buffer = self.taps[source], self.buffer
        view = memoryview(buffer)
        for _ in range(BATCH):
            try:
                size = os.readv(tap, [buffer])
            except OSError:  # no more, or the device is down
                return False
            for target in self.targets(source):
                link = self.links[source, target]
                if link.is_plain and not self.waiting:
                    self.hand_over(link, target, view[:size])
                    continue
                due = link.due_time(size, time.monotonic())
                if due is None:
                    link.dropped_frames += 1
                else:
                    entry = (due, next(self.numbers), (source, target), bytes(view[:size]))
                    heapq.heappush(self.waiting, entry)
        return True

    def carry_queued(self) -> None:
        """What hosts have sent so far; ends though they send more."""
        for source in range(len(self.taps)):
            for _ in range(QUEUED_BATCHES):
                if not self.carry(source):
                    break

    def targets(self, source: int) -> list[int]:
        """Who has the address of the frame in the buffer; everybody, if nobody has."""
        host = self.buffer[TARGET.stop] - 1
        known = self.buffer[TARGET] == self.prefix and 0 <= host < len(self.taps)
        return [host] if known and host != source else self.others[source]

    def deliver(self) -> None:
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            _, _, ends, frame = heapq.heappop(self.waiting)
            link = self.links[ends]
            if link.cut:  # meanwhile
                link.dropped_frames += 1
            else:
                self.hand_over(link, ends[1], frame)

    def hand_over(self, link: Link, target: int, frame: bytes | memoryview) -> None:
        try:
            os.write(self.taps[target], frame)
        except OSError:  # the device is down, or takes no more
            link.dropped_frames += 1
            return
        link.carried_frames += 1
        link.carried_bytes += len(frame) - HEADER

    def obey(self) -> bool:
        """Does what the test asks for; False when the test is gone."""
        try:
            message = self.control.recv(1 << 16)
        except ConnectionError:
            message = b""
        if not message:
            return False
        try:
            answer: Any = self.do(**json.loads(message))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            self.control.send(json.dumps(answer).encode(), socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def do(self, ends: list[list[int]], **settings: Any) -> list[dict[str, int]]:
        """Sets what is asked of links, each a pair of hosts; what they have carried."""
        self.carry_queued()
        chosen = [self.links[a, b] for a, b in ends]
        for link in chosen:
            link.set(**settings)
        return [link.counts() for link in chosen]


def make_tap(device: str, offload: bool) -> int:
    """A device of the namespace this process is in.

    With offloads a frame is up to 64 KiB, as the kernel makes them for TCP; else an Ethernet frame.
    """
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", device.encode(), flags))
    fcntl.ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 if offload else 0)
    return tap


def enter(libc: ctypes.CDLL, namespace: int, kind: int) -> None:
    if libc.setns(namespace, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
    os.close(namespace)


def main(text: str) -> None:
    options = json.loads(text)
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if options["user"] is not None:
        enter(libc, options["user"], CLONE_NEWUSER)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    taps = []
    for namespace in options["hosts"]:
        enter(libc, namespace, CLONE_NEWNET)
        taps.append(make_tap(options["device"], options["offload"]))
    control = socket.socket(fileno=options["control"])
    control.send(b"ready")
    Switch(taps, bytes.fromhex(options["prefix"].replace(":", "")), control).run()


if __name__ == "__main__":
    main(sys.argv[1])
