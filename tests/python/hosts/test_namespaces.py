"""Hosts of one machine: they reach each other and nothing else, and nothing is left of them."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host_sockets import connection, mailbox, socket_on, transfer
from waybill.tools import namespaces
from waybill.tools.namespaces import Host, Network, NetworkError

PATIENCE = 15.0
SIOCGIFFLAGS = 0x8913  # linux/sockios.h


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not in {PATIENCE} s: {what}"
        time.sleep(0.01)


def run_python(host: Host, text: str) -> str:
    command = host.command([sys.executable, "-c", text])
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=PATIENCE
    ).stdout.strip()


def has_device(own: socket.socket, device: str) -> bool:
    """Whether the namespace of a socket has it."""
    try:
        fcntl.ioctl(own, SIOCGIFFLAGS, struct.pack("16s24x", device.encode()))
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def permitted() -> None:
    if reason := Network.available():
        pytest.skip(reason)


@pytest.fixture(scope="module", params=[None, True], ids=["as we are", "user namespace"])
def network(permitted: None, request: pytest.FixtureRequest) -> Iterator[Network]:
    with Network(2, user_namespace=request.param) as made:
        yield made


def test_hosts_talk(network: Network) -> None:
    with connection(network, 0, 1) as (mine, theirs):
        assert transfer(mine, theirs, b"there")
        assert transfer(theirs, mine, b"and back")
        assert theirs.getpeername()[0] == network.address(0)


def test_hosts_have_names_and_one_device(network: Network) -> None:
    text = (
        "import os, socket; print(socket.gethostname(), socket.gethostbyname('host0'), "
        "*sorted(os.listdir('/sys/class/net')))"
    )
    found = run_python(network.hosts[1], text)
    assert found == f"host1 {network.address(0)} {network.device(1)} lo"
    assert socket.gethostname() != "host1"


def test_the_machine_is_out_of_reach(network: Network) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket_on(network.hosts[0]) as mine:
        assert mine.connect_ex(server.getsockname()) != 0
    with socket_on(network.hosts[0]) as mine, pytest.raises(OSError):
        mine.connect(("192.0.2.1", 9))
    devices = run_python(network.hosts[0], "print(open('/proc/net/dev').read())")
    assert {line.split(":")[0].strip() for line in devices.splitlines()[2:]} == {"lo", "eth0"}


def test_abstract_sockets_belong_to_a_host(network: Network) -> None:
    def local(host: int) -> socket.socket:
        return socket_on(network.hosts[host], family=socket.AF_UNIX)

    name = f"\0waybill-test-{os.getpid()}"
    with local(0) as server, local(0) as near, local(1) as far:
        server.bind(name)
        server.listen()
        near.connect(name)
        assert far.connect_ex(name) != 0
        with socket.socket(socket.AF_UNIX) as outside:
            assert outside.connect_ex(name) != 0


def test_counters_count(network: Network) -> None:
    data = os.urandom(10 << 20)

    def counts() -> list[int]:
        return [
            network.sent_bytes(0),
            network.received_bytes(1),
            network.sent_bytes(1),
            network.received_bytes(0),
        ]

    before = counts()
    with connection(network, 0, 1) as (mine, theirs):
        assert transfer(mine, theirs, data)
    sent, received, *back = (b - a for a, b in zip(before, counts(), strict=True))
    assert len(data) <= sent <= 1.05 * len(data)
    assert len(data) <= received <= 1.05 * len(data)
    assert max(back) < 0.05 * len(data)


def test_a_device_goes_down_and_up(network: Network) -> None:
    with mailbox(network, 0) as mine, mailbox(network, 1) as theirs:
        network.set_link(0, up=False)
        with pytest.raises(OSError):
            mine.sendto(b"lost", theirs.getsockname())
        network.set_link(0, up=True)
        mine.sendto(b"found", theirs.getsockname())
        assert theirs.recv(10) == b"found"


def test_rates_are_shaped_in_both_directions(permitted: None) -> None:
    with Network(3, rate=2e8) as network:
        for host in network.hosts:
            assert "tbf" in host.run("tc", "qdisc", "show", "dev", host.device)
            assert "rate 200Mbit" in host.run("tc", "qdisc", "show", "dev", host.device)
        with connection(network, 2, 1) as (mine, theirs):
            assert transfer(mine, theirs, bytes(1 << 20))


@pytest.mark.parametrize("num_hosts", [0, 201])
def test_bad_numbers_of_hosts(num_hosts: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to 200 hosts, got {num_hosts}"):
        Network(num_hosts)


def test_tools_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("waybill.tools.namespaces.TOOLS", ("ip", "no-such-tool"))
    with pytest.raises(NetworkError, match="need no-such-tool: install"):
        Network(1)


def test_what_a_tool_says_is_in_the_error(network: Network) -> None:
    with pytest.raises(NetworkError, match="no-such-device"):
        network.hosts[0].run("ip", "link", "show", "no-such-device")


LOAD = f"""
import json, os, sys
sys.path.append({str(Path(namespaces.__file__).parent)!r})
import namespaces  # by itself: it starts at once
"""

ENTER = """
import ctypes
libc, found = ctypes.CDLL(None), ctypes.c_int()
libc.prctl(1, 9)
namespaces.Host(**json.loads(sys.argv[1])).enter()
libc.prctl(2, ctypes.byref(found))
print(found.value)
"""


def run_loaded(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", LOAD + script, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE)


def test_a_signal_at_the_death_of_the_parent_is_kept(network: Network) -> None:
    done = run_loaded(ENTER, json.dumps(dataclasses.asdict(network.hosts[0])))
    assert done.stdout == "9\n", done.stderr


def test_processes_with_threads_are_told_to_fork(permitted: None) -> None:
    start = "import threading, time; threading.Thread(target=time.sleep, args=(1,)).start()"
    with Network(1, user_namespace=True) as network:
        host = json.dumps(dataclasses.asdict(network.hosts[0]))
        done = run_loaded(start + ENTER, host)
    assert "expected a process with one thread, got 2: fork it first" in done.stderr


# What is left


def machine() -> tuple[set[str], set[str], set[str]]:
    """Names that networks could leave behind: devices, namespaces, descriptors of this process."""
    folder = Path("/run/netns")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    kept = {f"{n}" for n in os.listdir("/proc/self/fd")}
    return {name for _, name in socket.if_nameindex()}, names, kept


def test_nothing_is_left_after_an_exception(permitted: None) -> None:
    before = machine()
    with pytest.raises(RuntimeError, match="in between"), Network(2) as network:
        own = socket_on(network.hosts[0])
        assert has_device(own, network.device(0))
        raise RuntimeError("in between")
    # The socket keeps the host; the link to the switch went with the switch.
    wait_until(lambda: not has_device(own, network.device(0)), "the link goes")
    own.close()
    assert machine() == before


def test_nothing_is_left_of_a_network_that_could_not_be_made(
    permitted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = machine()
    monkeypatch.setattr("waybill.tools.namespaces.DEVICE", "a-name-that-is-too-long")
    with pytest.raises(NetworkError, match="a-name-that-is-too-long"):
        Network(2)
    assert machine() == before


OWNER = """
import dataclasses, time
network = namespaces.Network(2, user_namespace=json.loads(sys.argv[1]))
print(json.dumps([dataclasses.asdict(host) for host in network.hosts]), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("user_namespace", [None, True])
def test_nothing_is_left_of_an_owner_that_is_killed(
    permitted: None, user_namespace: bool | None
) -> None:
    before = machine()
    argv = [sys.executable, "-c", LOAD + OWNER, json.dumps(user_namespace)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        hosts = [Host(**fields) for fields in json.loads(owner.stdout.readline())]
        with socket_on(hosts[0]) as own:
            assert has_device(own, hosts[0].device)
            owner.send_signal(signal.SIGKILL)
            owner.wait(PATIENCE)
            wait_until(lambda: not has_device(own, hosts[0].device), "the link goes")
    assert machine() == before
