"""Sockets of hosts in this process: a socket belongs to the namespace in which it was made."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

from waybill.tools.namespaces import Host, Network

PATIENCE = 20.0
MAKE = """
import socket, sys
pipe, family, kind = map(int, sys.argv[1:])
made = socket.socket(family, kind)
socket.send_fds(socket.socket(fileno=pipe), [b"."], [made.fileno()])
"""


def socket_on(
    host: Host, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET
) -> socket.socket:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        arguments = map(str, (theirs.fileno(), int(family), int(kind)))
        subprocess.run(
            host.command([sys.executable, "-I", "-S", "-c", MAKE, *arguments]),
            pass_fds=[theirs.fileno()],
            check=True,
            timeout=PATIENCE,
        )
        _, (made,), _, _ = socket.recv_fds(mine, 1, 1)
    found = socket.socket(fileno=made)
    found.settimeout(PATIENCE)
    return found


@contextlib.contextmanager
def connection(network: Network, a: int, b: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The ends of a TCP connection: on host a, on host b."""
    with socket_on(network.hosts[b]) as listener, socket_on(network.hosts[a]) as mine:
        listener.bind((network.address(b), 0))
        listener.listen()
        mine.connect(listener.getsockname())
        theirs, _ = listener.accept()
        with theirs:
            theirs.settimeout(PATIENCE)
            yield mine, theirs


@contextlib.contextmanager
def mailbox(network: Network, host: int) -> Iterator[socket.socket]:
    """A UDP socket with an address."""
    with socket_on(network.hosts[host], socket.SOCK_DGRAM) as made:
        made.bind((network.address(host), 0))
        yield made


def transfer(source: socket.socket, target: socket.socket, data: bytes) -> bool:
    """Sends it all; whether that is what arrives."""
    sender = threading.Thread(target=source.sendall, args=(data,))
    sender.start()
    arrived = hashlib.sha256()
    left = len(data)
    try:
        while left:
            part = target.recv(min(left, 1 << 20))
            if not part:
                break
            arrived.update(part)
            left -= len(part)
    finally:
        sender.join(PATIENCE)
    return arrived.digest() == hashlib.sha256(data).digest()
