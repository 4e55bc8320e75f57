"""Links that fail when a test says so."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from host_sockets import connection, mailbox, socket_on, transfer
from link_switch import MAX_QUEUE_SECONDS, Link
from links import SwitchedNetwork
from waybill.tools.namespaces import NetworkError

SOON = 0.2  # for what must not come: that it takes longer is no failure


@pytest.fixture(scope="module")
def permitted() -> None:
    if reason := SwitchedNetwork.available():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def made(permitted: None) -> Iterator[SwitchedNetwork]:
    with SwitchedNetwork(3) as network:
        yield network


@pytest.fixture
def network(made: SwitchedNetwork) -> Iterator[SwitchedNetwork]:
    yield made
    made.restore()


def is_silent(own: socket.socket) -> bool:
    patience = own.gettimeout()
    own.settimeout(SOON)
    try:
        own.recv(1)
    except TimeoutError:
        return True
    finally:
        own.settimeout(patience)
    return False


def test_a_switch_carries_and_counts(network: SwitchedNetwork) -> None:
    data = os.urandom(8 << 20)
    before, sent = network.counts(0, 1), network.sent_bytes(0)
    with connection(network, 0, 1) as (mine, theirs):
        assert transfer(mine, theirs, data)
    carried = network.counts(0, 1)["carried_bytes"] - before["carried_bytes"]
    assert len(data) <= carried <= 1.05 * len(data)
    assert len(data) <= network.sent_bytes(0) - sent <= 1.05 * len(data)
    assert network.counts(0, 2)["carried_bytes"] == 0


def test_a_switch_of_an_ordinary_user(permitted: None) -> None:
    with (
        SwitchedNetwork(2, user_namespace=True) as network,
        connection(network, 0, 1) as (mine, theirs),
    ):
        assert transfer(mine, theirs, os.urandom(1 << 20))


def test_a_link_is_cut_in_one_direction(network: SwitchedNetwork) -> None:
    with connection(network, 0, 1) as (mine, theirs):
        network.cut(0, 1)
        dropped = network.counts(0, 1)["dropped_frames"]
        mine.sendall(b"later")
        assert is_silent(theirs)
        assert network.counts(0, 1)["dropped_frames"] > dropped
        theirs.sendall(b"now")
        assert mine.recv(10) == b"now"
        network.heal(0, 1)
        assert theirs.recv(10) == b"later"  # TCP has sent it again


def test_a_link_is_cut_in_both_directions(network: SwitchedNetwork) -> None:
    with connection(network, 0, 1) as (mine, theirs), connection(network, 0, 2) as (near, far):
        network.cut(0, 1, both=True)
        mine.sendall(b"a")
        theirs.sendall(b"b")
        assert is_silent(mine) and is_silent(theirs)
        assert transfer(near, far, b"others work")
        network.heal(0, 1, both=True)
        assert (mine.recv(1), theirs.recv(1)) == (b"b", b"a")


def test_a_host_is_isolated_and_comes_back(network: SwitchedNetwork) -> None:
    with connection(network, 0, 1) as (mine, theirs), connection(network, 1, 2) as (near, far):
        network.isolate(0)
        theirs.sendall(b"x")
        assert is_silent(mine)
        assert transfer(near, far, b"others work")
        network.rejoin(0)
        assert mine.recv(1) == b"x"


def test_what_is_delayed_comes_after_what_is_not(network: SwitchedNetwork) -> None:
    with mailbox(network, 1) as target, mailbox(network, 0) as slow, mailbox(network, 2) as fast:
        network.delay(0, 1, 1.0)
        slow.sendto(b"first", target.getsockname())
        network.delay(0, 1, 0.0)
        slow.sendto(b"second", target.getsockname())  # does not overtake its own link's first
        fast.sendto(b"third", target.getsockname())
        assert [target.recv(10) for _ in range(3)] == [b"third", b"first", b"second"]


def test_what_is_under_way_is_lost_when_the_link_is_cut(network: SwitchedNetwork) -> None:
    with mailbox(network, 1) as target, mailbox(network, 0) as source:
        network.delay(0, 1, SOON)
        source.sendto(b"lost", target.getsockname())
        network.cut(0, 1)
        time.sleep(2 * SOON)
        network.restore()
        source.sendto(b"found", target.getsockname())
        assert target.recv(10) == b"found"


def datagrams(network: SwitchedNetwork, seed: int) -> list[int]:
    """The numbers of those that arrive out of 100, where about half are lost."""
    with mailbox(network, 1) as target, mailbox(network, 0) as source:
        network.loss(0, 1, 0.5, seed)
        for number in range(100):
            source.sendto(bytes([number]), target.getsockname())
        network.loss(0, 1, 0.0)
        source.sendto(b"\xff", target.getsockname())
        found = []
        while (number := target.recv(1)[0]) != 0xFF:
            found.append(number)
        return found


def test_losses_follow_the_seed(network: SwitchedNetwork) -> None:
    first = datagrams(network, seed=7)
    assert 20 < len(first) < 80
    assert datagrams(network, seed=7) == first
    assert datagrams(network, seed=8) != first


def test_tcp_delivers_what_a_link_loses(permitted: None) -> None:
    with SwitchedNetwork(2, offload=False) as network:
        network.loss(0, 1, 0.03, seed=1, both=True)
        with connection(network, 0, 1) as (mine, theirs):
            assert transfer(mine, theirs, os.urandom(1 << 20))
        counts = network.counts(0, 1)
        assert counts["dropped_frames"] > 0
        assert counts["carried_bytes"] <= 1514 * counts["carried_frames"]  # frames as on a wire


def test_a_device_goes_down_and_up(network: SwitchedNetwork) -> None:
    with connection(network, 0, 1) as (mine, theirs):
        network.set_link(1, up=False)
        mine.sendall(b"later")
        assert is_silent(theirs)
        network.set_link(1, up=True)
        assert theirs.recv(10) == b"later"


def test_a_rate_spaces_frames_and_drops_what_waits_too_long() -> None:
    link = Link(rate=8e6)  # a thousand bytes take a millisecond
    assert [link.due_time(1000, 1.0) for _ in range(3)] == pytest.approx([1.001, 1.002, 1.003])
    assert link.due_time(1000, 2.0) == pytest.approx(2.001)
    assert link.due_time(300_000, 3.0) == pytest.approx(3.3)
    assert link.due_time(1000, 3.0 + 0.3 - MAX_QUEUE_SECONDS - 0.01) is None


def test_rates_carry(network: SwitchedNetwork) -> None:
    network.limit(network.links(), 4e8)
    with connection(network, 0, 1) as (mine, theirs):
        assert transfer(mine, theirs, os.urandom(1 << 20))


def test_commands_that_cannot_be(network: SwitchedNetwork) -> None:
    with pytest.raises(NetworkError, match=r"KeyError: \(0, 7\)"):
        network.cut(0, 7)
    with pytest.raises(NetworkError, match="links have no 'speed'"):
        network._set([(0, 1)], speed=1)
    network.cut(0, 1)  # it goes on


def test_the_switch_ends_with_its_network(permitted: None) -> None:
    with SwitchedNetwork(2) as network:
        process = network._process
        assert process is not None and process.poll() is None
    assert process.returncode == 0
    network.close()


def test_a_switch_that_was_killed_is_an_error(permitted: None) -> None:
    with SwitchedNetwork(2) as network, socket_on(network.hosts[0]):
        process = network._process
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with pytest.raises(NetworkError, match="the switch has ended"):
            network.cut(0, 1)
