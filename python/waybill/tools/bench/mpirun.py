"""mpirun over the hosts of a network of namespaces, where no ssh leads.

mpirun runs on host 0 and starts a daemon on each other host through an agent, for which it takes
this file as a program. Out of a namespace no other one can be entered everywhere; so the agent asks
this process, which can, over a socket with a name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..namespaces import Network

ROOT_IS_FINE = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


class Transport:
    """A way for OpenMPI's bytes from host to host, by mpirun's options."""

    def __init__(self, name: str, options: str) -> None:
        self.name = name
        self.options = options.split()


def transports(device: str) -> list[Transport]:
    """Those that go over a plain network; ranks of one host always share memory."""
    return [
        Transport(
            "ob1, btl tcp",
            f"--mca pml ob1 --mca btl self,vader,tcp --mca btl_tcp_if_include {device}",
        ),
        Transport(
            "ucx, tcp",
            "--mca pml ucx --mca pml_ucx_tls any --mca pml_ucx_devices any "
            f"-x UCX_TLS=self,sm,tcp -x UCX_NET_DEVICES={device}",
        ),
    ]


class Launcher:
    """Runs programs with `ranks_per_host` ranks on each host of a network."""

    def __init__(self, network: Network, ranks_per_host: int) -> None:
        self._network = network
        self._ranks_per_host = ranks_per_host
        self._folder = tempfile.TemporaryDirectory(prefix="waybill-mpirun-")
        folder = Path(self._folder.name)
        self._agent = folder / "agent"
        self._hostfile = folder / "hosts"
        slots = (f"{host.address} slots={ranks_per_host}\n" for host in network.hosts)
        self._hostfile.write_text("".join(slots))
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(folder / "socket"))
        self._socket.listen()
        program = [sys.executable, "-I", "-S", __file__, str(folder / "socket")]
        self._agent.write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
        self._agent.chmod(0o755)
        threading.Thread(target=self._serve, daemon=True).start()

    def command(self, transport: Transport, argv: Sequence[str]) -> list[str]:
        """Starts argv once a rank; to be run with environment()."""
        device = self._network.device(0)
        mpirun = shutil.which("mpirun") or "mpirun"
        options = [
            *("--hostfile", str(self._hostfile), "--mca", "plm_rsh_agent", str(self._agent)),
            *("--mca", "oob_tcp_if_include", device, "--mca", "orte_keep_fqdn_hostnames", "1"),
            *("-n", str(self._network.num_hosts * self._ranks_per_host)),
            *("--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"),
            *transport.options,
        ]
        return self._network.command(0, [mpirun, *options, *argv])

    @staticmethod
    def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, **ROOT_IS_FINE, **(more or {})}

    def close(self) -> None:
        # A thread that waits in accept() does not notice close().
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._folder.cleanup()

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._start, args=(connection,), daemon=True).start()

    def _start(self, connection: socket.socket) -> None:
        """Runs what an agent asks for; its end and the agent's are one."""
        with connection:
            address, command = json.loads(connection.makefile().readline())
            host = next(host for host in self._network.hosts if host.address == address)
            process = subprocess.Popen(
                host.command(["/bin/sh", "-c", command]),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            threading.Thread(target=_end_with, args=(connection, process), daemon=True).start()
            code = process.wait()
            with contextlib.suppress(OSError):
                connection.sendall(f"{code}\n".encode())


def _end_with(connection: socket.socket, process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(1):
            pass
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def _arguments(argv: Sequence[str]) -> Iterator[str]:
    """Without the options that are meant for ssh."""
    rest = iter(argv)
    for word in rest:
        if not word.startswith("-"):
            yield word
            break
    yield from rest


def main(argv: Sequence[str]) -> int:
    """The agent: mpirun gives it options, an address and the words of a command for a shell."""
    address, *words = _arguments(argv[1:])
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(argv[0])
        server.sendall((json.dumps([address, " ".join(words)]) + "\n").encode())
        answer = server.makefile().readline()
    return abs(int(answer or 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
