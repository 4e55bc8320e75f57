"""Groups: which ranks belong together, under which name, and what they did."""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import _interrupts, _library, _lifetime, _processes
from ._meeting import Entry, find_formed, meet
from .errors import ArgumentError, MismatchError, PeerLost, StateError, WaybillError

MAX_NAME_LENGTH = 127
EXIT_SECONDS = 5.0

tokens: dict[str, Tensor] = {}
"""The tensor of each group by which compiled programs order its calls, see operators.h."""


@dataclass(frozen=True)
class _Options:
    timeout: float | None
    threads: int | None
    cores: str | None
    strict: str | None

    def check(self, operator: str) -> None:
        timeout, threads = self.timeout, self.threads
        if timeout is not None and not (0 < timeout < math.inf):
            raise _bad(operator, "timeout", "None or seconds > 0", repr(timeout))
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise _bad(operator, "threads", "None or a whole number >= 1", repr(threads))
        if self.cores is not None and not isinstance(self.cores, str):
            expected = 'None or a list of cores like "0-15,32"'
            raise _bad(operator, "cores", expected, repr(self.cores))
        if self.cores is not None:
            _library.parse_cores(operator, "cores", self.cores)
        elif "WAYBILL_CORES" in os.environ:
            # Before the others are met, who would wait.
            _library.parse_cores(operator, "WAYBILL_CORES", os.environ["WAYBILL_CORES"])
        strict = self.strict or os.environ.get("WAYBILL_STRICT") or None
        if strict not in _library.STRICT_MODES:
            raise _bad(operator, "strict", 'None, "a2" or "a3"', repr(strict))

    def difference(self, other: _Options) -> str | None:
        """The first option that is given here and is another one there."""
        for option in fields(self):
            mine, theirs = getattr(self, option.name), getattr(other, option.name)
            if option.name == "cores" and mine is not None and theirs is not None:
                mine, theirs = (
                    _library.parse_cores("comm_name", "cores", cores) for cores in (mine, theirs)
                )
            if mine is not None and mine != theirs:
                return option.name
        return None


_options: dict[str, _Options] = {}
_uses: dict[str, int] = {}  # how often this process made a name from a process group's
_hooks: dict[str, Any] = {}  # keeps callbacks alive as long as their groups


def _bad(operator: str, argument: str, expected: str, got: str) -> ArgumentError:
    return ArgumentError(
        f"{operator}: argument {argument}: expected {expected}, got {got}",
        operator=operator,
        argument=argument,
    )


def comm_name(
    group: dist.ProcessGroup | None = None,
    *,
    timeout: float | None = None,
    threads: int | None = None,
    cores: str | None = None,
    strict: str | None = None,
) -> str:
    """Make a process group usable and return the name that operators take as group_ep or group_tp.

    The first call for a group is collective among its ranks, which meet through the group's store;
    later calls are local and return the same name. Ranks that can share memory do; those on
    different hosts talk through UCX (docs/hosts.md). The name ends with the process group:
    destroy_process_group releases it, and so does the end of the last reference.

    Args:
        group: of torch.distributed; None is the whole world.
        timeout: seconds an operator waits for a rank that lives but does not come. Default
            WAYBILL_TIMEOUT or 300. A rank whose process has ended is noticed within 2 seconds.
        threads: cores this rank may use inside one operator. Default WAYBILL_THREADS, or the cores
            that the ranks of this host may run on divided by their number.
        cores: a list like "0-15,32": the cores on which the threads run that help this rank, each
            pinned to one. Default WAYBILL_CORES, or those that this process may run on as a whole.
        strict: None, "a2" or "a3": limits of the vendor's products apply on top of the
            contract's (default: WAYBILL_STRICT).

    Raises:
        ArgumentError: a bad option, or one that differs from the first call's.
        WaybillError: the ranks are on several hosts and one of them has no UCX.
        PeerTimeout: not all ranks came.
        PeerLost: the process of a rank ended meanwhile.
    """
    options = _Options(timeout, threads, cores, strict)
    options.check("comm_name")
    process_group = _process_group(group)
    name = _lifetime.names.get(process_group)
    if name is not None and name in _options:
        _check_same_options(name, options)
        return name
    base = _base_name(process_group.group_name)
    store = dist.distributed_c10d._get_process_group_store(process_group)

    def choose(entries: list[Entry]) -> str:
        uses = max(int(entry["uses"]) for entry in entries)
        return f"{base}_{uses}" if uses else base

    entry = {"uses": _uses.get(base, 0)}
    name = _connect(
        store, "waybill", process_group.rank(), process_group.size(), entry, choose, options
    )
    used = name.removeprefix(base).removeprefix("_")
    _uses[base] = int(used or 0) + 1
    _lifetime.watch(process_group, name, _forget)
    return name


def connect(
    store: dist.Store | None,
    rank: int,
    world_size: int,
    name: str,
    *,
    timeout: float | None = None,
    threads: int | None = None,
    cores: str | None = None,
    strict: str | None = None,
) -> str:
    """Connect a group without torch.distributed being initialised; return `name`.

    Collective among `world_size` processes that give the same store and name.

    A process that was started again comes back under its old rank: when the group of this store
    and name lives and the process of `rank` has ended, connect waits until the next reset of the
    others takes this process in (they see it in stats(name)["rejoining"]). Where the store died
    with a rank, or is None, the group is found by its name among the processes of this user.

    Args:
        store: any torch.distributed.Store that all ranks reach; to come back, one that still holds
            what the group's ranks left there, or None.
        rank: this process's position in the group, 0 <= rank < world_size.
        world_size: ranks of the group, E.
        name: what operators take as group_ep; 1 to 127 characters, not in use.
        timeout, threads, cores, strict: as in comm_name.

    Raises:
        ArgumentError, StateError (the name is in use), WaybillError, PeerTimeout, PeerLost: as
            comm_name.
    """
    return connect_with_hook(store, rank, world_size, name, timeout, threads, cores, strict)


def connect_with_hook(
    store: dist.Store | None,
    rank: int,
    world_size: int,
    name: str,
    timeout: float | None = None,
    threads: int | None = None,
    cores: str | None = None,
    strict: str | None = None,
    on_phase: Callable[[int], None] | None = None,
) -> str:
    """connect() with a function that is told each phase of each call, for tests."""
    options = _Options(timeout, threads, cores, strict)
    options.check("connect")
    _check_name("connect", name)
    if not 0 <= rank < world_size:
        raise _bad("connect", "rank", f"0 <= rank < world_size = {world_size}", str(rank))
    problem = f"the name {name!r} is in use" if name in _options else None
    hook = _library.PhaseHook(on_phase) if on_phase else None
    if problem is None and _came_back(store, rank, world_size, name, options, hook):
        return name
    assert store is not None
    return _connect(
        store,
        f"waybill/{name}",
        rank,
        world_size,
        {"problem": problem},
        lambda _: name,
        options,
        hook,
    )


def connect_local(
    names: Sequence[str],
    *,
    timeout: float | None = None,
    threads: int | None = None,
    cores: str | None = None,
    strict: str | None = None,
    on_phase: Callable[[int], None] | None = None,
) -> None:
    """Ranks as threads of this process, for tests: each name is one rank of a new group."""
    options = _Options(timeout, threads, cores, strict)
    options.check("connect_local")
    for name in names:
        _check_name("connect_local", name)
    hook = _library.PhaseHook(on_phase) if on_phase else None
    _library.connect_local(list(names), on_phase=hook, **asdict(options))
    for name in names:
        _remember(name, options, hook)


def release(name: str, *, timeout: float | None = None) -> None:
    """Free the windows and the pool of a group; its name can be used again.

    Local. Waits until living peers have read what they still need, at most `timeout` seconds
    (default: the group's). Buffers that somebody holds stay valid until they are dropped.
    Groups that comm_name made are released with their process group.

    Raises:
        StateError: an unknown group, or one with a call running in another thread.
    """
    _library.release(name, timeout)
    _lifetime.unwatch(name)
    _forget(name)
    _interrupts.raise_pending()


def set_timeout(name: str, timeout: float) -> None:
    """How many seconds calls that begin from now on wait for a rank that lives. Local."""
    _Options(timeout, None, None, None).check("set_timeout")
    _library.set_timeout(name, timeout)


def reset(name: str) -> list[int]:
    """Agree on who is left after an error that asks for a reset; return their ranks.

    Collective among the ranks that live. Waits, up to the timeout, for ranks whose process lives.
    Starts a new epoch. All ranks on the list get the same list; later comers get StateError. A
    process that came back under the rank of one that has ended is taken in, see connect.
    """
    return _library.reset(name)


def expert_buffer(name: str, rows: int, hidden: int, dtype: torch.dtype) -> Tensor:
    """Memory that peers can read: combine takes rows from it without copying them.

    Local. Returns a (rows, hidden) tensor of bfloat16, float16 or float32, uninitialised.

    Raises:
        ArgumentError, StateError; WaybillError when memory is short.
    """
    try:
        return torch.ops.waybill._expert_buffer.default(name, rows, hidden, dtype)
    except (RuntimeError, ValueError) as error:
        last = _library.last_error()
        if last is None or str(last) not in str(error):
            raise
        raise last from None


def window_bytes(
    bs: int,
    hidden: int,
    topk: int,
    moe_expert_num: int,
    ep_world_size: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    quant_mode: int = 0,
    smooth: bool = False,
    shared_expert_num: int = 1,
    shared_expert_rank_num: int = 0,
    comm_quant_mode: int = 0,
    expert_scales: bool = False,
) -> int:
    """Bytes of windows that calls with these sizes need, on the rank that needs most.

    Local. Both halves, the worst case of dispatch_v2 and of combine_v2 with rows that have to be
    copied; outputs (the pool) come on top.

    Args:
        bs: most rows of x on a rank, maxBS.
        hidden, topk, moe_expert_num, ep_world_size: H, K, M, E.
        dtype: of x.
        smooth: whether dispatch gets `scales`.
        expert_scales: whether dispatch gets `expert_scales`.
    """
    sizes = {
        "bs": bs,
        "hidden": hidden,
        "topk": topk,
        "moe_expert_num": moe_expert_num,
        "ep_world_size": ep_world_size,
        "shared_expert_num": shared_expert_num,
        "shared_expert_rank_num": shared_expert_rank_num,
    }
    for argument, value in sizes.items():
        if value < 0:
            raise _bad("window_bytes", argument, "a number >= 0", str(value))
    if not shared_expert_rank_num < ep_world_size:
        raise _bad("window_bytes", "shared_expert_rank_num", "SR < E", str(shared_expert_rank_num))
    if shared_expert_rank_num and shared_expert_num < 1:
        raise _bad("window_bytes", "shared_expert_num", "S > 0 since SR > 0", "0")
    return _library.window_bytes(
        **sizes,
        row_element_bytes=dtype.itemsize,
        quant_mode=quant_mode,
        comm_quant_mode=comm_quant_mode,
        smooth=smooth,
        expert_scales=expert_scales,
    )


_TRAFFIC = ("rows_sent", "rows_received", "bytes_sent", "bytes_received")


def stats(name: str) -> dict[str, Any]:
    """What this rank did since the group was connected. Local, from any thread.

    Keys: calls, completed (number of the last call that ended well), epoch; needs_reset (why calls
    are refused until a reset; empty when they are not); absent (ranks that the
    last reset did not find), rejoining (ranks whose new process waits for the next reset);
    rows_sent,
    rows_received, bytes_sent, bytes_received: lists over peers, dispatch and combine together, and
    the same under "dispatch" and "combine"; bytes_published, bytes_copied, bytes_reduced,
    rows_in_place; wait_us (per peer), wait_total_us, copy_total_us, in_call_total_ns (inside
    calls, from their begin to their end); window_bytes, pool_bytes, pool_bytes_in_use,
    pool_buffers.
    """
    numbers = _library.stats(name)
    for key in _TRAFFIC:
        pairs = zip(numbers["dispatch"][key], numbers["combine"][key], strict=True)
        numbers[key] = [one + other for one, other in pairs]
    return numbers


def routes(name: str) -> list[dict[str, str]]:
    """How this rank reads what each rank of the group publishes, by rank. Local.

    Keys: host (name of the rank's host, empty where the group is on one), how ("self", "shared
    memory", "UCX", ...).
    """
    return _library.routes(name)


def placement(name: str) -> dict[str, Any]:
    """On which NUMA nodes this rank's memory lies. Local.

    Keys: node (of the core that asks), window_pages and pool_pages (lists over nodes, as far as the
    highest one that has any: pages of the windows and of the pool; of large ones some 1,000 are
    looked at), unknown_pages (those that the kernel says nothing of).

    Raises:
        StateError: an unknown group, or one with a call running in another thread.
    """
    return _library.placement(name)


def last_error() -> WaybillError | None:
    """The last error of an operator or function of this library in this thread, or None.

    Has the class and the fields that torch.ops.waybill.* and compiled programs cannot pass on.
    """
    return _library.last_error()


def _process_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    if group is None and not (dist.is_available() and dist.is_initialized()):
        raise StateError(
            "comm_name: expected torch.distributed to be initialised, got group=None before "
            "init_process_group",
            operator="comm_name",
            argument="group",
        )
    chosen = dist.group.WORLD if group is None else group
    outside: object = dist.GroupMember.NON_GROUP_MEMBER
    if chosen is outside:
        raise _bad(
            "comm_name",
            "group",
            "a process group of which this rank is a member",
            f"one that rank {dist.get_rank()} is not in (what new_group returns to ranks that "
            "are not on its list)",
        )
    if not isinstance(chosen, dist.ProcessGroup):
        raise _bad("comm_name", "group", "a process group of which this rank is", repr(group))
    return chosen


def _base_name(group_name: str) -> str:
    name = f"waybill_{group_name}"
    if len(name) > MAX_NAME_LENGTH - 20:  # room for a number
        name = f"waybill_{sha256(group_name.encode()).hexdigest()[:32]}"
    return name


def _check_name(operator: str, name: str) -> None:
    if not 1 <= len(name.encode()) <= MAX_NAME_LENGTH:
        expected = f"1 to {MAX_NAME_LENGTH} characters"
        raise _bad(operator, "name", expected, f"{len(name.encode())}")


def _check_same_options(name: str, options: _Options) -> None:
    first = _options[name]
    option = options.difference(first)
    if option is not None:
        expected = f"None or that of the group's first call, {getattr(first, option)!r}"
        raise _bad("comm_name", option, expected, repr(getattr(options, option)))


def _connect(
    store: dist.Store,
    prefix: str,
    rank: int,
    world_size: int,
    entry: Entry,
    choose_name: Callable[[list[Entry]], str],
    options: _Options,
    hook: Any = None,
) -> str:
    """Meets at the store, agrees on a name, and connects."""

    def decide(entries: list[Entry]) -> Entry:
        problem = _problem(entries)
        processes = [entry["process"] for entry in entries]
        return problem or {
            "id": _library.new_id(),
            "name": choose_name(entries),
            "hosts": [str(entry["host"]) for entry in entries],
            "processes": processes,
        }

    timeout = options.timeout or float(_library.machine()["timeout"])
    decision = meet(
        store, prefix, rank, world_size, {**entry, "host": _library.this_host()}, decide, timeout
    )
    _check_nobody_lost(decision, rank)
    if "problem" in decision:
        kind = StateError if rank in decision["ranks"] and entry.get("problem") else MismatchError
        raise kind(decision["problem"], operator="connect", ranks=decision["ranks"])
    name, records = str(decision["name"]), decision["processes"]
    hosts = decision["hosts"]

    def all_gather(own: str) -> list[str]:
        def decide_addresses(entries: list[Entry]) -> Entry:
            return {"addresses": [entry["address"] for entry in entries]}

        place = f"{prefix}/{decision['id']}"
        gathered = meet(store, place, rank, world_size, {"address": own}, decide_addresses, timeout)
        _check_nobody_lost(gathered, rank)
        return list(gathered["addresses"])

    _library.connect(
        name=name,
        id=decision["id"],
        rank=rank,
        world_size=world_size,
        process=_pids(records, hosts),
        host=hosts if len(set(hosts)) > 1 else None,
        on_phase=hook,
        all_gather=all_gather,
        **asdict(options),
    )
    _remember(name, options, hook)
    return name


def _pids(records: list[Any], hosts: list[str]) -> list[str] | None:
    """This host's ranks, "PID START"; None where one of them is of another container."""
    here = _library.this_host()
    mine = [record for record, host in zip(records, hosts, strict=True) if host == here]
    if not all(map(_processes.is_known, mine)):
        return None
    return [f"{int(record['pid'])} {int(record['start'])}" for record in records]


def _check_nobody_lost(decision: Entry, rank: int) -> None:
    if "lost" in decision:
        ranks = ", ".join(str(lost) for lost in decision["lost"])
        raise PeerLost(
            f"connect: rank(s) {ranks} have ended their processes (in the rendezvous, rank {rank})",
            operator="connect",
            ranks=decision["lost"],
        )


def _came_back(
    store: dist.Store | None,
    rank: int,
    world_size: int,
    name: str,
    options: _Options,
    hook: Any,
) -> bool:
    """Takes the place of a process that has ended in a group that lives; False: there is none."""
    unique_id = _group_to_come_back_to(store, rank, world_size, name)
    if unique_id is None:
        return False
    try:
        _library.rejoin(
            name=name,
            id=unique_id,
            rank=rank,
            world_size=world_size,
            on_phase=hook,
            **asdict(options),
        )
    except PeerLost:
        if store is None:
            raise
        return False  # nobody is left: what the store holds is of the past
    _remember(name, options, hook)
    return True


def _group_to_come_back_to(
    store: dist.Store | None, rank: int, world_size: int, name: str
) -> str | None:
    """The id of the group of this name whose rank `rank` has ended."""
    if store is not None:
        try:
            formed = find_formed(store, f"waybill/{name}")
        except RuntimeError as failure:  # the store's server died with a rank
            return _find_by_name(rank, world_size, name, failure)
        if formed is None or set(formed.get("hosts", [])) != {_library.this_host()}:
            return None  # also a group on several hosts: nobody comes back to those
        records = formed["processes"]
        fits = len(records) == world_size and _processes.has_ended(records[rank])
        return str(formed["id"]) if fits else None
    return _find_by_name(rank, world_size, name, None)


def _find_by_name(rank: int, world_size: int, name: str, failure: RuntimeError | None) -> str:
    found = [
        state["id"]
        for state in _library.inspect()
        if state["name"] == name
        and state["world_size"] == world_size
        and state["ranks"][rank]["pid"] == 0
    ]
    if len(found) == 1:
        return str(found[0])
    raise StateError(
        f"connect: expected a store, or one living group {name!r} of {world_size} ranks without "
        f"rank {rank} to come back to, got {len(found)}"
        + (f" and a store that does not answer ({failure})" if failure else ""),
        operator="connect",
        argument="store",
    ) from failure


def _problem(entries: list[Entry]) -> Entry | None:
    """Why these ranks cannot make a group, as a decision, or None."""
    refusing = [rank for rank, entry in enumerate(entries) if entry.get("problem")]
    if refusing:
        text = f"connect: rank {refusing[0]}: {entries[refusing[0]]['problem']}"
        return {"problem": text, "ranks": refusing}
    return None


def _remember(name: str, options: _Options, hook: Any) -> None:
    tokens[name] = torch.zeros(1, dtype=torch.uint8)
    _options[name] = options
    _hooks[name] = hook


def _forget(name: str) -> None:
    tokens.pop(name, None)
    _options.pop(name, None)
    _hooks.pop(name, None)


def _release_all() -> None:
    deadline = time.monotonic() + EXIT_SECONDS
    for name in _library.group_names():
        try:
            _library.release(name, max(deadline - time.monotonic(), 0.0))
        except (WaybillError, KeyboardInterrupt):
            continue  # a call still runs in another thread, or somebody is in a hurry
    _library.finish_ended(max(deadline - time.monotonic(), 0.0))


def _after_fork() -> None:
    # The groups are the parent's; operators say so through the library.
    _options.clear()
    _lifetime.forget_all()
    _uses.clear()
    _interrupts.forget()


atexit.register(_release_all)
os.register_at_fork(after_in_child=_after_fork)
