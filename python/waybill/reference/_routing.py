"""Who sends what to whom, and where it lands: integers only.

Sections are those of docs/contract/operators.md; this is sections 0, 2, 3, 4, 5 and 8.

`Call` holds what all ranks of one call agree on. Sources and destinations are EP ranks in the
numbering in force, which elastic scaling may have changed; `Call.members` leads from there to the
places in the lists of arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
PerRank = Sequence[T | None]  # one entry per rank, None for a rank without it


class Placement(NamedTuple):
    """Where experts live (section 0)."""

    num_ranks: int  # E
    num_shared_ranks: int  # SR
    num_experts: int  # M
    num_shared: int  # S, normalised

    @property
    def replicas(self) -> int:
        """R, ranks per shared expert."""
        return self.num_shared_ranks // self.num_shared

    @property
    def local_experts(self) -> int:
        """L, experts on a MoE rank."""
        return self.num_experts // (self.num_ranks - self.num_shared_ranks)

    def is_shared(self, rank: int) -> bool:
        return rank < self.num_shared_ranks

    def num_local(self, rank: int) -> int:
        """localE: 1 on a shared rank, else L."""
        return 1 if self.is_shared(rank) else self.local_experts

    def rank_of_shared(self, shared: int, source: int) -> int:
        """The rank that serves shared expert `shared` for the tokens of `source`."""
        return source % self.replicas + shared * self.replicas


@dataclass(frozen=True)
class Call:
    """What all ranks of one call have in common."""

    original: Placement  # of the arguments: fixes shapes
    now: Placement  # after elastic scaling: fixes routing
    members: tuple[int, ...]  # rank in `now` -> ep_rank_id
    elastic: bool  # elastic_info was given, whatever its flag
    zero: int  # Z
    copy: int  # C
    const: int  # N
    global_bs: int  # GBS, resolved
    top_k: int  # K
    hidden: int  # H
    tp: int  # 1 or 2

    @property
    def max_bs(self) -> int:
        return self.global_bs // self.original.num_ranks

    @property
    def special_begin(self) -> int:
        """First id of the special experts: the original M, also after elastic scaling."""
        return self.original.num_experts

    @property
    def special_end(self) -> int:
        return self.special_begin + self.zero + self.copy + self.const

    def capacity(self, rank: int) -> int:
        """A of section 2, for a rank in `now`."""
        moe = self.global_bs * min(self.original.local_experts, self.top_k)
        if self.original.num_shared_ranks == 0:
            return moe
        shared = self.max_bs * -(-self.original.num_ranks // self.original.replicas)
        if self.elastic:
            return max(moe, shared)
        return shared if self.now.is_shared(rank) else moe

    def local_experts_of_shapes(self, rank: int) -> int:
        """localE as the shapes of expert_token_nums and ep_recv_counts have it."""
        if self.elastic:
            return max(1, self.original.local_experts)
        return self.original.num_local(rank)

    def args_of_tp_rank(self, argument: PerRank[T] | None, tp_rank: int) -> list[T | None]:
        """The entries of the EP group of `tp_rank`, in the order of `now`."""
        if argument is None:
            return [None] * len(self.members)
        return [argument[self.tp * member + tp_rank] for member in self.members]


def make_call(
    x: PerRank[Tensor],
    expert_ids: PerRank[Tensor],
    *,
    ep_world_size: int,
    moe_expert_num: int,
    shared_expert_num: int,
    shared_expert_rank_num: int,
    global_bs: int,
    tp_world_size: int = 0,
    elastic_info: PerRank[Tensor] | None = None,
    zero_expert_num: int = 0,
    copy_expert_num: int = 0,
    const_expert_num: int = 0,
) -> Call:
    """The common part of a call. `x` is any (rows, H) argument, `expert_ids` gives BS and K."""
    shared = shared_expert_num if shared_expert_rank_num > 0 else 0
    original = Placement(ep_world_size, shared_expert_rank_num, moe_expert_num, shared)
    tp = max(tp_world_size, 1)
    if len(x) != tp * ep_world_size or len(expert_ids) != len(x):
        raise ValueError(f"expected lists of {tp * ep_world_size} ranks, got {len(x)}")
    info = None if elastic_info is None else next((e for e in elastic_info if e is not None), None)
    now, members = apply_elastic_info(original, info)
    check_placement(original)
    check_placement(now)
    if tp > 1 and (info is not None or now.local_experts != 1):
        raise ValueError("tp_world_size 2 needs one expert per MoE rank and no elastic_info")

    callers = [tp * member + tp_rank for member in members for tp_rank in range(tp)]
    shapes = {tuple(require(expert_ids[i], "expert_ids").shape) for i in callers}
    batch_sizes = {bs for bs, _ in shapes}
    if global_bs == 0 and len(batch_sizes) > 1:
        raise ValueError(f"global_bs 0 needs equal BS on all ranks, got {sorted(batch_sizes)}")
    resolved = global_bs or max(batch_sizes) * ep_world_size
    if resolved % ep_world_size or resolved < max(batch_sizes) * ep_world_size:
        raise ValueError(f"global_bs {global_bs} does not hold BS {max(batch_sizes)} on every rank")
    (top_k,) = {k for _, k in shapes}
    (hidden,) = {require(x[i], "x").shape[1] for i in callers}
    return Call(
        original=original,
        now=now,
        members=members,
        elastic=info is not None,
        zero=zero_expert_num,
        copy=copy_expert_num,
        const=const_expert_num,
        global_bs=resolved,
        top_k=top_k,
        hidden=hidden,
        tp=tp,
    )


def require(value: T | None, name: str) -> T:
    if value is None:
        raise ValueError(f"{name} is missing on a rank that takes part")
    return value


def check_placement(placement: Placement) -> None:
    moe_ranks = placement.num_ranks - placement.num_shared_ranks
    if moe_ranks < 1 or placement.num_experts % moe_ranks:
        raise ValueError(f"moe_expert_num does not fit {moe_ranks} MoE ranks: {placement}")
    if placement.num_shared_ranks and (
        placement.num_shared < 1 or placement.num_shared_ranks % placement.num_shared
    ):
        raise ValueError(f"shared ranks are no multiple of the shared experts: {placement}")


def apply_elastic_info(
    original: Placement, info: Tensor | None
) -> tuple[Placement, tuple[int, ...]]:
    """The placement in force (section 8), and for each of its ranks the original rank."""
    if info is None or int(info[0]) == 0:
        return original, tuple(range(original.num_ranks))
    _, num_ranks, num_shared_ranks, num_experts, *tables = info.tolist()
    new_of_old, old_of_new = tables[: original.num_ranks], tables[original.num_ranks :]
    members = tuple(old_of_new[:num_ranks])
    removed = [-1] * (original.num_ranks - num_ranks)
    if (
        [old for old in members if not 0 <= old < original.num_ranks]
        or [new_of_old[old] for old in members] != list(range(num_ranks))
        or [new for new in new_of_old if new == -1] != removed
        or old_of_new[num_ranks:] != removed
    ):
        raise ValueError(f"elastic_info: the two tables are not inverse to each other: {tables}")
    now = Placement(num_ranks, num_shared_ranks, num_experts, original.num_shared)
    check_placement(now)
    if now.local_experts != original.local_experts:
        raise ValueError(f"elastic_info changes the experts per rank: {original} to {now}")
    if now.num_experts > original.num_experts:
        raise ValueError(f"elastic_info has more experts than there were: {original} to {now}")
    return now, members


NOT_ROUTED = -1  # the id of a choice that takes no part, as if a mask were false there


class TakesPart(NamedTuple):
    """What a mask and the ids leave (section 3)."""

    pairs: Tensor  # bool (BS, K)
    tokens: Tensor  # bool (BS,), the active tokens


def takes_part(expert_ids: Tensor, mask: Tensor | None) -> TakesPart:
    pairs = expert_ids != NOT_ROUTED
    if mask is not None:
        pairs = pairs & (mask[:, None] if mask.dim() == 1 else mask)
    return TakesPart(pairs, pairs.any(dim=1))


def check_ids(call: Call, source: int, expert_ids: Tensor, part: TakesPart) -> None:
    """Every id that is read is one of a MoE expert in force or of a special expert."""
    ids = expert_ids
    moe = (ids >= 0) & (ids < call.now.num_experts)
    special = (ids >= call.special_begin) & (ids < call.special_end)
    for token, k in (part.pairs & ~moe & ~special).nonzero().tolist():
        raise ValueError(
            f"expert_ids of rank {source}, token {token}, k {k}: {int(ids[token, k])} is neither "
            f"in [0, {call.now.num_experts}) nor in [{call.special_begin}, {call.special_end}); "
            "-1 or false in x_active_mask leaves a choice out"
        )


def goes_to_moe(call: Call, expert_ids: Tensor, part: TakesPart) -> Tensor:
    """bool (BS, K): the pairs that are sent as rows to MoE ranks."""
    return part.pairs & (expert_ids >= 0) & (expert_ids < call.now.num_experts)


class Sent(NamedTuple):
    """The rows one source sends: MoE rows in the order of t*K+k, then by shared expert, token."""

    dest: Tensor  # rank that receives the row
    cell: Tensor  # its local expert there
    token: Tensor
    slot: Tensor  # k, or K + s
    expert: Tensor  # which row of `scales` is the expert's: s, or S + e


def rows_sent(call: Call, source: int, expert_ids: Tensor, part: TakesPart) -> Sent:
    """Everything `source` sends (section 3); int64 vectors of equal length."""
    place = call.now
    token, slot = goes_to_moe(call, expert_ids, part).nonzero(as_tuple=True)
    expert = expert_ids[token, slot].long()
    local = max(place.local_experts, 1)
    blocks = [
        Sent(
            dest=place.num_shared_ranks + expert // local,
            cell=expert % local,
            token=token,
            slot=slot,
            expert=place.num_shared + expert,
        )
    ]
    active = part.tokens.nonzero().flatten()
    for shared in range(place.num_shared):
        blocks.append(
            Sent(
                dest=torch.full_like(active, place.rank_of_shared(shared, source)),
                cell=torch.zeros_like(active),
                token=active,
                slot=torch.full_like(active, call.top_k + shared),
                expert=torch.full_like(active, shared),
            )
        )
    return Sent(*(torch.cat(columns) for columns in zip(*blocks, strict=True)))


def occurrence_indices(expert_ids: Tensor, part: TakesPart) -> Tensor:
    """expand_idx of v1 (section 5), int32 (BS*K,): 0 where the pair takes no part."""
    flat = part.pairs.flatten().nonzero().flatten()
    ids = expert_ids.flatten()[flat]
    by_expert = torch.argsort(ids, stable=True)
    _, group_sizes = torch.unique_consecutive(ids[by_expert], return_counts=True)
    group_begin = torch.repeat_interleave(group_sizes.cumsum(0) - group_sizes, group_sizes)
    index = torch.zeros(expert_ids.numel(), dtype=torch.int32)
    index[flat[by_expert]] = (torch.arange(len(flat)) - group_begin).to(torch.int32)
    return index


def shared_positions(part: TakesPart) -> Tensor:
    """For each token the number of earlier active tokens: its row in a cell of a shared rank."""
    active = part.tokens.long()
    return active.cumsum(0) - active


def counts_to_prefix(cell: Tensor, source: Tensor, num_cells: int, num_ranks: int) -> Tensor:
    """ep_recv_counts (section 5), int64 (num_cells, num_ranks).

    Of rows that are given by their local expert and their source, in any order.
    """
    counts = torch.bincount(cell * num_ranks + source, minlength=num_cells * num_ranks)
    return counts.cumsum(0).reshape(num_cells, num_ranks)
