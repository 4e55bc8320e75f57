"""Several hosts on one machine: network namespaces that only their own links join.

    with Network(2) as network:
        subprocess.run(network.command(1, ["ping", "-c", "1", network.address(0)]))
        if os.fork() == 0:
            network.enter(1)  # what this process opens from now on belongs to host 1

A program sees of such a host what it would see of a machine: its name and those of the others, its
devices, its addresses, and nobody it could meet over an abstract socket. Memory, files and process
ids are the machine's.

Namespaces have no names here. Descriptors of the process that made the network hold them, so they
and all that is in them go when it ends, however it ends, and nothing has to be swept. Nothing of
the machine's own network is touched. An ordinary user can do all this inside a user namespace,
which is made where the caller's own rights do not suffice.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType

# linux/sched.h, linux/mount.h, linux/prctl.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2

DEVICE = "eth0"
MAX_HOSTS = 200
TOOLS = ("ip", "tc", "nsenter", "unshare")
TOOL_SECONDS = 20.0
MIN_BURST_BYTES = 1 << 17  # two packets as large as the kernel makes them for TCP
QUEUE_MILLISECONDS = 50


class NetworkError(RuntimeError):
    """The kernel or the rights of this process do not allow it; the text has the reason."""


@dataclass(frozen=True)
class Host:
    """One host of a network. Can be sent to other processes while the network's owner lives."""

    number: int
    name: str
    address: str
    mac: str
    device: str
    network_namespace: str  # a path
    user_namespace: str | None  # of the user who is root there; None: the machine's
    hosts_file: str  # the addresses of all hosts' names

    def enter(self) -> None:
        """Moves the calling thread to this host, for good; children and sockets are there, too.

        Where the network has a user namespace, the process has to have one thread only (a forked
        one has; libraries that are imported start some), is root of that namespace afterwards, and
        can enter one host in its life.
        """
        threads = len(os.listdir("/proc/self/task"))
        if self.user_namespace is not None and threads > 1:
            raise NetworkError(f"expected a process with one thread, got {threads}: fork it first")
        signal = ctypes.c_int()
        _call("prctl", PR_GET_PDEATHSIG, ctypes.byref(signal))
        # The paths mean nothing any more once the first step has been made.
        network = os.open(self.network_namespace, os.O_RDONLY)
        user = os.open(self.user_namespace, os.O_RDONLY) if self.user_namespace else None
        try:
            if user is not None:
                _call("setns", user, CLONE_NEWUSER)
            _call("setns", network, CLONE_NEWNET)
        finally:
            os.close(network)
            if user is not None:
                os.close(user)
        self._dress()
        _call("prctl", PR_SET_PDEATHSIG, signal)  # the kernel forgets it when rights change

    def _dress(self) -> None:
        """Names of hosts and devices, for this thread and its children."""
        _call("unshare", CLONE_NEWNS | CLONE_NEWUTS)
        _call("sethostname", self.name.encode(), len(self.name))
        _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        # The file has no other name, so that nobody has to remove it.
        _call("mount", b"none", b"/sys", b"tmpfs", 0, None)
        with open("/sys/hosts", "w") as file:
            file.write(self.hosts_file)
        _call("mount", b"/sys/hosts", b"/etc/hosts", None, MS_BIND, None)
        _call("umount2", b"/sys", MNT_DETACH)
        # It shows the network namespace in which it is mounted; programs look there for devices.
        _call("mount", b"none", b"/sys", b"sysfs", 0, None)

    def command(self, argv: Sequence[str]) -> list[str]:
        """Runs argv on this host; for processes that have not entered one."""
        return [sys.executable, "-I", "-S", __file__, json.dumps(asdict(self)), *argv]

    def run(self, *argv: str, text: str | None = None, keep: Sequence[int] = ()) -> str:
        """Output of a tool of the network; raises NetworkError with what it says otherwise."""
        return _run([*self._nsenter(), *argv], text, keep)

    def _nsenter(self) -> list[str]:
        user = [f"--user={self.user_namespace}", "--preserve-credentials"]
        chosen = user if self.user_namespace else []
        return ["nsenter", *chosen, f"--net={self.network_namespace}", "--"]


class Network:
    """`num_hosts` hosts, each with one device, a link of its own to a switch. Used by one thread.

    rate: bits per second of each link, in each direction; None: as fast as the machine copies.
    user_namespace: whether to make one; None: where it is needed.
    """

    def __init__(
        self, num_hosts: int, rate: float | None = None, *, user_namespace: bool | None = None
    ) -> None:
        if not 1 <= num_hosts <= MAX_HOSTS:
            raise ValueError(f"Network: expected 1 to {MAX_HOSTS} hosts, got {num_hosts}")
        path = _environment()["PATH"]
        missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
        if missing:
            raise NetworkError(
                f"network namespaces need {', '.join(missing)}: install iproute2 and util-linux"
            )
        self.rate = rate
        self._descriptors: list[int] = []
        self._user: int | None = None
        try:
            self._namespaces = [self._open_first(user_namespace)]
            self._namespaces += [self._open_namespace() for _ in range(num_hosts - 1)]
            self.hosts = self._hosts(self._namespaces)
            self._link()
            for host in self.hosts:
                self._configure(host)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def available() -> str | None:
        """None, or why networks cannot be made here."""
        return _why_not()

    @property
    def num_hosts(self) -> int:
        return len(self.hosts)

    def enter(self, host: int) -> None:
        self.hosts[host].enter()

    def command(self, host: int, argv: Sequence[str]) -> list[str]:
        return self.hosts[host].command(argv)

    def address(self, host: int) -> str:
        return self.hosts[host].address

    def device(self, host: int) -> str:
        return self.hosts[host].device

    def sent_bytes(self, host: int) -> int:
        """What the host's device has sent since the network was made, with Ethernet headers."""
        return self._counters(host)["tx"]["bytes"]

    def received_bytes(self, host: int) -> int:
        return self._counters(host)["rx"]["bytes"]

    def set_link(self, host: int, up: bool) -> None:
        """Takes the host's device down, or up again."""
        own = self.hosts[host]
        if up:
            own.run("ip", "-batch", "-", text=self._up(own))
        else:
            own.run("ip", "link", "set", own.device, "down")

    def close(self) -> None:
        """Gives the namespaces up: they end with the last process that is in them."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._user = None

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Namespaces

    def _open_first(self, user_namespace: bool | None) -> int:
        if not user_namespace:
            try:
                return self._open_namespace()
            except NetworkError:
                if user_namespace is not None:
                    raise
        self._user = self._keep(_open_fresh(["unshare", "--user", "--map-root-user"], "user"))
        return self._open_namespace()

    def _open_namespace(self) -> int:
        inside = [] if self._user is None else ["nsenter", *self._user_options(), "--"]
        return self._keep(_open_fresh([*inside, "unshare", "--net"], "net"))

    def _user_options(self) -> list[str]:
        return [f"--user={self._path(self._user)}", "--preserve-credentials"]

    def _keep(self, descriptor: int) -> int:
        self._descriptors.append(descriptor)
        return descriptor

    @staticmethod
    def _path(descriptor: int | None) -> str:
        """Of this process, also when another one opens it."""
        return f"/proc/{os.getpid()}/fd/{descriptor}"

    def _hosts(self, namespaces: Sequence[int]) -> list[Host]:
        numbers = range(len(namespaces))
        names = [f"host{number}" for number in numbers]
        addresses = [f"10.77.0.{number + 1}" for number in numbers]
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        for address, name in zip(addresses, names, strict=True):
            # The latter is for torch, which looks for names of IPv4 addresses in IPv6 form.
            lines += [f"{address} {name}", f"::ffff:{address} {name}.mapped"]
        user = None if self._user is None else self._path(self._user)
        return [
            Host(
                number,
                names[number],
                addresses[number],
                mac=f"02:77:00:00:00:{number + 1:02x}",
                device=DEVICE,
                network_namespace=self._path(namespaces[number]),
                user_namespace=user,
                hosts_file="\n".join([*lines, ""]),
            )
            for number in numbers
        ]

    # Links

    def _link(self) -> None:
        """Gives each host its device; here: one end of a veth pair, the other end at a bridge."""
        (switch,) = self._hosts([self._open_namespace()])  # of which only the namespace matters
        lines = ["link add bridge0 type bridge mcast_snooping 0"]
        lines += ["link set bridge0 addrgenmode none up"]
        for host, namespace in zip(self.hosts, self._namespaces, strict=True):
            port = f"port{host.number}"
            # From inside, this process's descriptors are out of reach: the tool gets its own.
            peer = f"name {host.device} netns /proc/self/fd/{namespace}"
            lines += [f"link add {port} type veth peer {peer}"]
            lines += [f"link set {port} addrgenmode none master bridge0 up"]
        switch.run("ip", "-batch", "-", text="\n".join(lines), keep=self._namespaces)
        if self.rate is not None:
            for host in self.hosts:
                shape(host, host.device, self.rate)
                shape(switch, f"port{host.number}", self.rate)

    def _configure(self, host: Host) -> None:
        device = host.device
        lines = ["link set lo up"]
        # No addresses of its own making: their announcements would be in the counters.
        lines += [f"link set {device} address {host.mac} addrgenmode none"]
        lines += [f"addr add {host.address}/24 dev {device}"]
        host.run("ip", "-batch", "-", text="\n".join([*lines, self._up(host)]))

    def _up(self, host: Host) -> str:
        """Neighbours are known: no link is needed in both directions to find one."""
        lines = [f"link set {host.device} up"]
        for other in self.hosts:
            if other != host:
                entry = f"{other.address} lladdr {other.mac} dev {host.device}"
                lines.append(f"neigh replace {entry} nud permanent")
        return "\n".join(lines)

    def _counters(self, host: int) -> dict[str, dict[str, int]]:
        own = self.hosts[host]
        found = json.loads(own.run("ip", "-s", "-j", "link", "show", own.device))
        return dict(found[0]["stats64"])


def shape(host: Host, device: str, rate: float) -> None:
    """Limits what a device sends to `rate` bits per second."""
    burst = max(MIN_BURST_BYTES, int(rate / 8 / 100))
    limits = f"rate {int(rate)}bit burst {burst} latency {QUEUE_MILLISECONDS}ms"
    host.run("tc", "qdisc", "replace", "dev", device, "root", "tbf", *limits.split())


@functools.cache
def _why_not() -> str | None:
    try:
        with Network(2) as network:
            _run(network.command(0, ["true"]))
    except (NetworkError, OSError) as error:
        return f"network namespaces are not permitted here: {error}"
    return None


def _environment() -> dict[str, str]:
    """Tools of the network are not in every user's PATH."""
    path = os.environ.get("PATH", os.defpath)
    return {**os.environ, "PATH": os.pathsep.join([path, "/usr/sbin", "/sbin"])}


def _open_fresh(unshare: list[str], kind: str) -> int:
    """A descriptor of a new namespace, taken from a process that waits in it."""
    with subprocess.Popen(
        [*unshare, "cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        try:
            holder.stdin.write(b"\n")
            holder.stdin.flush()
            if holder.stdout.read(1):  # else it has not come so far
                return os.open(f"/proc/{holder.pid}/ns/{kind}", os.O_RDONLY)
        except BrokenPipeError:
            pass
        _, text = holder.communicate(timeout=TOOL_SECONDS)
    raise NetworkError(text.decode().strip() or f"{unshare[0]} ended with {holder.returncode}")


def _run(argv: Sequence[str], text: str | None = None, keep: Sequence[int] = ()) -> str:
    done = subprocess.run(
        argv,
        input=text or "",
        capture_output=True,
        text=True,
        timeout=TOOL_SECONDS,
        pass_fds=keep,
        env=_environment(),
    )
    if done.returncode != 0:
        raise NetworkError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def main(argv: Sequence[str]) -> None:
    """The program behind Host.command(): enters the host and becomes argv[1:]."""
    try:
        Host(**json.loads(argv[0])).enter()
        os.execvp(argv[1], list(argv[1:]))
    except OSError as error:
        sys.exit(f"{argv[1]}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
