"""What a plan is made for: a layer's sizes, and the hosts and links that it runs on."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..workload.settings import DTYPES


@dataclass(frozen=True)
class Layer:
    """One layer, the same on every rank; letters as in docs/contract/operators.md."""

    hosts: int = 2
    ranks_per_host: int = 8
    bs: int = 128
    hidden: int = 7168
    topk: int = 8
    experts: int = 256
    """M, over all ranks."""
    shared_experts: int = 0
    shared_ranks: int = 0
    dtype: str = "bfloat16"
    quant: int = 0
    """quant_mode of dispatch, 0 or 2."""
    comm_quant: int = 0
    """comm_quant_mode of combine, 0 or 2."""
    smooth: bool = False
    """dispatch gets `scales`: a row for each (token, expert), none is shared."""
    expert_scales: bool = False
    """dispatch gets `expert_scales`."""
    private_rows: bool = False
    """combine gets rows that are not in the group's memory and have to be copied."""
    routing: str = "uniform"
    """uniform, zipf:EXPONENT or recorded:FILE, as `waybill bench` takes it."""

    @property
    def ranks(self) -> int:
        """E."""
        return self.hosts * self.ranks_per_host

    @property
    def shared(self) -> int:
        """S, 0 when no rank is a shared one."""
        return self.shared_experts if self.shared_ranks else 0

    @property
    def experts_per_rank(self) -> int:
        """L."""
        return self.experts // (self.ranks - self.shared_ranks)

    @property
    def element_bytes(self) -> int:
        """Bytes of an element of x."""
        return DTYPES[self.dtype].itemsize

    @property
    def x_row_bytes(self) -> int:
        """Bytes of a row of x and of y."""
        return self.hidden * self.element_bytes

    @property
    def dispatch_row_bytes(self) -> int:
        """Bytes of a row as dispatch publishes it, without its scale."""
        return self.hidden if self.quant else self.x_row_bytes

    @property
    def combine_row_bytes(self) -> int:
        """Bytes of a row as combine publishes it, without its scales."""
        return self.hidden if self.comm_quant else self.x_row_bytes

    @property
    def combine_scale_bytes(self) -> int:
        """Bytes of the scales of a row on the way back: one for each 8 elements."""
        return -(-self.hidden // 8) * self.element_bytes if self.comm_quant else 0

    def host_of(self, rank: int) -> int:
        """Ranks lie on hosts one behind the other."""
        return rank // self.ranks_per_host

    def check(self) -> None:
        """Raises ValueError for what no group can run."""
        for name in ("hosts", "ranks_per_host", "bs", "hidden", "topk", "experts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")
        for name in ("quant", "comm_quant"):
            if getattr(self, name) not in (0, 2):
                raise ValueError(f"{name}: expected 0 or 2, got {getattr(self, name)}")
        if self.smooth and not self.quant:
            raise ValueError("smooth: expected quant 2, got 0")
        self._check_experts()

    def _check_experts(self) -> None:
        if self.topk > self.experts:
            raise ValueError(f"topk: expected at most experts = {self.experts}, got {self.topk}")
        if not 0 <= self.shared_ranks < self.ranks:
            raise ValueError(
                f"shared_ranks: expected 0 to {self.ranks - 1}, got {self.shared_ranks}"
            )
        if self.shared_ranks and (
            self.shared_experts < 1 or self.shared_ranks % self.shared_experts
        ):
            raise ValueError(
                f"shared_experts: expected a divisor of shared_ranks = {self.shared_ranks}, "
                f"got {self.shared_experts}"
            )
        if self.experts % (self.ranks - self.shared_ranks):
            raise ValueError(
                f"experts: expected a multiple of the {self.ranks - self.shared_ranks} ranks that "
                f"have experts, got {self.experts}"
            )


@dataclass(frozen=True)
class Machine:
    """Hosts, all alike, and the network between them. GB: 10^9 bytes."""

    link_gbps: float = 400.0
    """Gbit/s of a host's network card in each direction, both at once."""
    latency_us: float = 5.0
    """Microseconds from a send to its arrival on an idle link, software included."""
    mtu: int = 9000
    """Bytes of an IP packet over TCP; 0: framing is not counted."""
    cores: int = 64
    """Cores of a host that its ranks may use, in equal parts."""
    core_copy_gbs: float = 10.0
    """GB/s that one core copies."""
    host_copy_gbs: float = 200.0
    """GB/s that a host copies at most with all cores: what its memory allows."""
    message_us: float = 1.0
    """Microseconds of a core for each message, at the sender and at the receiver."""
    tcp_gbs: float = 0.0
    """GB/s that a core brings through the kernel's TCP in one direction; 0: not counted."""
    compute_us: float = 0.0
    """Microseconds of other work between a setup and its teardown."""

    def check(self) -> None:
        """Raises ValueError for numbers that mean nothing."""
        for field in fields(self):
            value = getattr(self, field.name)
            positive = field.name in ("link_gbps", "cores", "core_copy_gbs", "host_copy_gbs")
            if not value >= 0 or (positive and value == 0):
                least = "more than 0" if positive else "0 or more"
                raise ValueError(f"{field.name}: expected {least}, got {value}")
        if 0 < self.mtu < 576:
            raise ValueError(f"mtu: expected 0 or 576 and more, got {self.mtu}")
