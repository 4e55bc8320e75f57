"""How rows come back: which a rank returns, and to which token and slot.

Sections are those of docs/contract/operators.md; this is sections 5 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._routing import (
    Call,
    PerRank,
    TakesPart,
    check_ids,
    goes_to_moe,
    require,
    shared_positions,
    takes_part,
)


@dataclass(frozen=True)
class Tokens:
    """What one rank knows about its own tokens."""

    ids: Tensor  # (BS, K)
    weights: Tensor  # (BS, K) float32
    part: TakesPart
    moe: Tensor  # bool (BS, K): a row is expected
    shared_expert_x: Tensor | None  # (BS, H)
    ori_x: Tensor | None  # (BS, H)
    alpha_1: Tensor | None  # (N,) or (N, H)
    alpha_2: Tensor | None
    v: Tensor | None  # (N, H)


def gather_tokens(
    call: Call,
    expert_ids: PerRank[Tensor],
    expert_scales: PerRank[Tensor],
    x_active_mask: PerRank[Tensor] | None,
    shared_expert_x: PerRank[Tensor] | None = None,
    ori_x: PerRank[Tensor] | None = None,
    alpha_1: PerRank[Tensor] | None = None,
    alpha_2: PerRank[Tensor] | None = None,
    v: PerRank[Tensor] | None = None,
) -> list[list[Tokens]]:
    """For each TP rank the tokens of its EP group, in the ranks' order in force."""
    groups = []
    for tp_rank in range(call.tp):
        columns = [
            call.args_of_tp_rank(argument, tp_rank)
            for argument in (
                expert_ids,
                expert_scales,
                x_active_mask,
                shared_expert_x,
                ori_x,
                alpha_1,
                alpha_2,
                v,
            )
        ]
        group = []
        for source, (ids, weights, mask, shared_x, *specials) in enumerate(
            zip(*columns, strict=True)
        ):
            ids = require(ids, "expert_ids")
            part = takes_part(ids, mask)
            check_ids(call, source, ids, part)
            if shared_x is not None:
                if call.original.num_shared_ranks:
                    raise ValueError("shared_expert_x needs shared_expert_rank_num 0")
                shared_x = shared_x.reshape(len(ids), call.hidden)
            moe = goes_to_moe(call, ids, part)
            weights = require(weights, "expert_scales")
            group.append(Tokens(ids, weights, part, moe, shared_x, *specials))
        groups.append(group)
    return groups


def own_prefix(call: Call, rank: int, ep_send_counts: Tensor) -> Tensor:
    """The prefix sums of the rank's own rows, int64 (localE, E)."""
    shape = call.now.num_local(rank), call.now.num_ranks
    return ep_send_counts[: shape[0] * shape[1]].long().reshape(shape)


def num_rows(prefix: Tensor) -> int:
    return int(prefix[-1, -1]) if prefix.numel() else 0


def own_rows(
    call: Call,
    rank: int,
    tp_rank: int,
    count: int,
    expand_x: PerRank[Tensor],
    tp_send_counts: PerRank[Tensor] | None,
) -> Tensor:
    """The rows a rank returns, (count, H): with TP = 2 the sum with its peer's (section 6)."""
    own_place = call.tp * call.members[rank] + tp_rank
    own = require(expand_x[own_place], "expand_x")
    if len(own) < count:
        raise ValueError(f"expand_x of rank {own_place} has {len(own)} rows, {count} are expected")
    if call.tp == 1:
        return own[:count]
    counts = require(tp_send_counts, "tp_send_counts")[own_place]
    num_peer_rows = int(require(counts, "tp_send_counts")[1 - tp_rank])
    peer = require(expand_x[call.tp * call.members[rank] + 1 - tp_rank], "expand_x")
    peer_part = peer[num_peer_rows : num_peer_rows + count]
    if len(peer_part) < count:
        raise ValueError(f"the TP peer of rank {own_place} has {len(peer)} rows, too few")
    # In fp16 this is the sum in fp16: float32 holds more than twice its digits, so rounding twice
    # changes nothing.
    return (own[:count].float() + peer_part.float()).to(own.dtype)


def homes_by_triples(
    call: Call, group: list[Tokens], assist: list[Tensor | None], counts: list[int]
) -> list[Tensor]:
    """For each source, (BS, K+S): which of all ranks' rows belongs there, by the triples.

    Rows are counted over all ranks in order. Means nothing where `wanted_slots` is false.
    """
    claims = torch.cat(
        [
            require(info, "assist_info_for_combine")[: 3 * n].long().reshape(n, 3)
            for info, n in zip(assist, counts, strict=True)
        ]
    )
    row = torch.arange(len(claims))
    source, token, slot = claims.unbind(dim=1)
    slots = call.top_k + call.now.num_shared
    batch_sizes = torch.tensor([len(own.ids) for own in group])
    legal = (source >= 0) & (source < len(group)) & (slot >= 0) & (slot < slots) & (token >= 0)
    legal &= token < batch_sizes[source.clamp(0, len(group) - 1)]
    if not legal.all():
        first_bad = int((~legal).nonzero()[0])
        raise ValueError(f"assist_info_for_combine: no such place {claims[first_bad].tolist()}")

    homes = []
    for rank, own in enumerate(group):
        shape = len(own.ids), slots
        mine = source == rank
        flat = token[mine] * slots + slot[mine]
        claimed = torch.bincount(flat, minlength=shape[0] * slots).reshape(shape)
        wanted = wanted_slots(call, own)
        for t, s in (wanted & (claimed != 1)).nonzero().tolist():
            problem = "no row returns for" if claimed[t, s] == 0 else "two rows claim"
            raise ValueError(f"rank {call.members[rank]}: {problem} token {t}, slot {s}")
        home = torch.zeros(shape[0] * slots, dtype=torch.int64)
        home[flat] = row[mine]
        homes.append(home.reshape(shape))
    return homes


def homes_by_occurrence(
    call: Call, group: list[Tokens], indices: list[Tensor | None], prefixes: list[Tensor]
) -> list[Tensor]:
    """As homes_by_triples, from expand_idx and the counts of the ranks that return rows."""
    place = call.now
    cells = max(1, *(len(prefix) for prefix in prefixes))
    begin = torch.zeros(place.num_ranks, cells, place.num_ranks, dtype=torch.int64)
    end = torch.zeros_like(begin)
    first_row = 0
    for rank, prefix in enumerate(prefixes):
        inclusive = prefix.flatten()
        exclusive = torch.cat([inclusive.new_zeros(1), inclusive])[:-1]
        begin[rank, : len(prefix)] = first_row + exclusive.reshape(prefix.shape)
        end[rank, : len(prefix)] = first_row + prefix
        first_row += num_rows(prefix)

    homes = []
    local = max(place.local_experts, 1)
    for source, own in enumerate(group):
        expert = torch.where(own.moe, own.ids, 0).long()
        dest, cell = place.num_shared_ranks + expert // local, expert % local
        expand_idx = require(indices[source], "expand_idx")[: expert.numel()]
        firsts = [begin[dest, cell, source]]
        limits = [end[dest, cell, source]]
        offsets = [expand_idx.long().reshape(expert.shape)]
        for shared in range(place.num_shared):
            server = place.rank_of_shared(shared, source)
            firsts.append(begin[server, 0, source].expand(len(expert), 1))
            limits.append(end[server, 0, source].expand(len(expert), 1))
            offsets.append(shared_positions(own.part)[:, None])
        first, limit = torch.cat(firsts, dim=1), torch.cat(limits, dim=1)
        rows = first + torch.cat(offsets, dim=1)
        wanted = wanted_slots(call, own)
        for t, s in (wanted & ((rows < first) | (rows >= limit))).nonzero().tolist():
            raise ValueError(f"rank {call.members[source]}: no row returns for token {t}, slot {s}")
        homes.append(rows)
    return homes


def wanted_slots(call: Call, own: Tokens) -> Tensor:
    """bool (BS, K+S): the places where a row must return."""
    return torch.cat([own.moe, own.part.tokens[:, None].expand(-1, call.now.num_shared)], dim=1)
