"""The random choices behind `cases.random_case`: numbers, sizes, masks and expert ids."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
INTEGERS = {2: torch.int16, 4: torch.int32}
BYTE_BUDGET = 6 << 20  # of all ranks' dispatch outputs together
NOT_ROUTED = -1
GARBAGE_IDS = (-1, -(2**31), 2**31 - 1, 1 << 20)

# Infinities, NaNs quiet and signalling with a payload, subnormals, the negative zero, the largest.
SPECIAL_BITS = {
    "bf16": (0x7F80, 0xFF80, 0x7FC1, 0xFF85, 0x0001, 0x807F, 0x8000, 0x7F7F),
    "fp16": (0x7C00, 0xFC00, 0x7E01, 0xFC05, 0x0001, 0x83FF, 0x8000, 0x7BFF),
    "fp32": (0x7F800000, 0xFF800000, 0x7FC00001, 0xFF800005, 1, 0x807FFFFF, 1 << 31, 0x7F7FFFFF),
}


class Draw:
    """Random numbers of one stream: the same bits on every machine, whatever its vector units."""

    def __init__(self, name: str) -> None:
        self.random = random.Random(name)
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(60))

    def pick(self, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)

    def bell(self, *shape: int) -> Tensor:
        """float32 of mean 0 and variance 1, from exact sums (randn differs between machines)."""
        total = self.uniform(*shape) + self.uniform(*shape) + self.uniform(*shape)
        return (total - 1.5) * 2.0

    def values(self, dtype: str, *shape: int) -> Tensor:
        """Ordinary values of one magnitude."""
        magnitude: float = self.pick([2.0**-10, 1.0, 1.0, 64.0])
        return (self.bell(*shape) * magnitude).to(DTYPES[dtype])

    def with_specials(self, values: Tensor, dtype: str, share: float) -> Tensor:
        """Some elements replaced by infinities, NaNs, subnormals and the like."""
        integer = INTEGERS[values.element_size()]
        width = 8 * values.element_size()
        patterns = [b - (1 << width) if b >> (width - 1) else b for b in SPECIAL_BITS[dtype]]
        table = torch.tensor(patterns, dtype=integer)
        which = torch.randint(len(table), values.shape, generator=self.generator)
        replace = self.uniform(*values.shape) < share
        return torch.where(replace, table[which], values.view(integer)).view(values.dtype)

    def strided(self, values: Tensor) -> Tensor:
        """The same values, laid out with gaps or transposed."""
        layout = self.pick(["wide", "every other", "transposed"])
        if values.dim() != 2 or layout == "every other":
            spread = values.new_zeros(*values.shape[:-1], 2 * values.shape[-1])
            spread[..., ::2] = values
            return spread[..., ::2]
        if layout == "wide":
            wide = values.new_zeros(values.shape[0], values.shape[1] + 3)
            wide[:, 1:-2] = values
            return wide[:, 1:-2]
        return values.t().contiguous().t()


class Elastic(NamedTuple):
    """What elastic_info says, and what is in force after it."""

    info: list[int] | None
    num_experts: int
    num_shared_ranks: int
    members: list[int]  # new rank -> original rank


class Sizes(NamedTuple):
    """The numbers of one case, in the letters of the contract."""

    tp: int
    e: int
    sr: int
    s: int
    m: int
    k: int
    h: int
    z: int
    c: int
    n: int
    batch_sizes: list[int]  # per place in the lists
    global_bs: int
    elastic: Elastic

    @property
    def local(self) -> int:
        return self.m // (self.e - self.sr)

    @property
    def moe_capacity(self) -> int:
        """A of a MoE rank."""
        gbs = self.global_bs or max(self.batch_sizes) * self.e
        return gbs * min(self.local, self.k)

    @property
    def places(self) -> list[int]:
        """Places of the ranks that make a call, in the order of the lists."""
        ranks = sorted(self.elastic.members)
        return [self.tp * rank + tp_rank for rank in ranks for tp_rank in range(self.tp)]


def draw_sizes(draw: Draw, itemsize: int, max_ranks: int, features: str, tags: set[str]) -> Sizes:
    full = features == "full"
    tp = 2 if features in ("full", "v1") and max_ranks >= 2 and draw.chance(0.15) else 1
    ranks = [1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 8, 10, 12, 16]
    e = draw.pick([rank for rank in ranks if rank * tp <= max_ranks])
    s = draw.pick([0, 0, 0, 1, 1, 2, 3, 4])
    s = s if s < e else 0
    sr = s * draw.random.randint(1, min((e - 1) // s, 4)) if s else 0
    m = (1 if tp == 2 else draw.pick([1, 1, 2, 3, 4, 8, 16])) * (e - sr)
    z = c = n = 0
    if full and draw.chance(0.5):
        z, c, n = (draw.pick([0, 1, 2]) for _ in range(3))
    elastic = Elastic(None, m, sr, list(range(e)))
    if full and tp == 1 and draw.chance(0.3):
        elastic = draw_elastic(draw, e, sr, s, m, tags)
    k = draw.pick([1, 2, 2, 3, 4, 4, 6, 8, 8, 16, draw.random.randint(1, 16)])
    if z + c + n == 0:
        k = min(k, elastic.num_experts)  # or the ids of a token could not be distinct

    def bytes_per_token(h: int) -> int:
        rows = e * tp * e * min(m // (e - sr), k)
        return int(rows * (tp * (h * itemsize + 4) + 516))

    h = draw.pick([3584, 7168]) if draw.chance(0.04) else draw.pick([1, 7, 31, 64, 100, 576, 1000])
    while max(bytes_per_token(h), e * tp * m * h * 4) > BYTE_BUDGET:  # the latter: smooth scales
        h = max(smaller for smaller in (1, 7, 31, 64, 100, 576, 1000, 3584) if smaller < h)
    max_bs = min(draw.pick([1, 2, 3, 4, 6, 8, 12, 32]), BYTE_BUDGET // bytes_per_token(h))
    batch_sizes, global_bs = draw_batch_sizes(draw, e, tp, max_bs, tags)
    tags |= {f"ranks:{e}", f"H:{h}", f"K:{k}", f"S:{s}", f"R:{sr // s if s else 0}"}
    tags |= {f"special:{name}" for name, num in zip("zcn", (z, c, n), strict=True) if num}
    return Sizes(tp, e, sr, s, m, k, h, z, c, n, batch_sizes, global_bs, elastic)


def draw_batch_sizes(
    draw: Draw, e: int, tp: int, max_bs: int, tags: set[str]
) -> tuple[list[int], int]:
    """BS of each place, and global_bs."""
    kind = draw.pick(["equal", "equal", "equal", "unequal", "unequal", "some zero", "all zero"])
    if kind == "all zero" and draw.chance(0.6):
        kind = "equal"
    slack = draw.pick([0, 0, 1, 2])
    tags |= {f"bs:{kind}", "global_bs:slack" if slack else "global_bs:tight"}
    if kind == "unequal":
        batch_sizes = [draw.random.randint(0, max_bs) for _ in range(e * tp)]
    elif kind == "some zero":
        batch_sizes = [draw.pick([0, max_bs]) for _ in range(e * tp)]
    else:
        batch_sizes = [max_bs if kind == "equal" else 0] * (e * tp)
    if len(set(batch_sizes)) == 1 and draw.chance(0.6):
        tags |= {"global_bs:0"}
        return batch_sizes, 0
    return batch_sizes, e * (max(*batch_sizes, 1) + slack)


def draw_elastic(draw: Draw, e: int, sr: int, s: int, m: int, tags: set[str]) -> Elastic:
    """elastic_info: ignored by its flag, or with some ranks removed and the rest renumbered."""
    if draw.chance(0.2):
        tags |= {"elastic:flag 0"}
        garbage = [draw.random.randint(-5, 50) for _ in range(3 + 2 * e)]
        return Elastic([0, *garbage], m, sr, list(range(e)))
    local = m // (e - sr)
    choices = [
        (new_e, new_sr)
        for new_e in range(1, e + 1)
        for new_sr in (range(s, new_e, s) if s else [0])
        if local * (new_e - new_sr) <= m
    ]
    new_e, new_sr = draw.pick(choices)
    members = draw.random.sample(range(e), new_e)
    if draw.chance(0.5):
        members.sort()
    table_1 = [members.index(old) if old in members else -1 for old in range(e)]
    table_2 = members + [-1] * (e - new_e)
    new_m = local * (new_e - new_sr)
    tags |= {"elastic:removed" if new_e < e else "elastic:nobody removed"}
    if members != sorted(members):
        tags |= {"elastic:renumbered"}
    if new_sr != sr:
        tags |= {"elastic:other SR"}
    return Elastic([1, new_e, new_sr, new_m, *table_1, *table_2], new_m, new_sr, members)


def draw_masks(draw: Draw, sizes: Sizes, kind: str) -> list[Tensor | None]:
    """x_active_mask of each place, in any pattern; kind is "", "1d", "2d" or "mixed"."""
    masks: list[Tensor | None] = []
    for bs in sizes.batch_sizes:
        own_kind = draw.pick(["", "1d", "2d"]) if kind == "mixed" else kind
        share = draw.pick([0.0, 0.3, 0.7, 0.7, 0.9, 1.1])
        shape = (bs,) if own_kind == "1d" else (bs, sizes.k)
        masks.append(draw.uniform(*shape) < share if own_kind else None)
    return masks


def draw_ids(
    draw: Draw, sizes: Sizes, masks: list[Tensor | None], not_routed: bool, tags: set[str]
) -> list[Tensor]:
    """expert_ids of each place: (BS, K) int32. `not_routed`: some are -1."""
    pool = list(range(sizes.elastic.num_experts))
    if draw.chance(0.3) and len(pool) > sizes.k:
        tags |= {"ids:few experts"}
        pool = draw.random.sample(pool, sizes.k)
    specials = list(range(sizes.m, sizes.m + sizes.z + sizes.c + sizes.n))
    special_share = draw.pick([0.3, 0.3, 0.6, 1.0]) if specials else 0.0
    ids = []
    for bs in sizes.batch_sizes:
        rows = [draw_token(draw, sizes.k, pool, specials, special_share) for _ in range(bs)]
        ids.append(torch.tensor(rows, dtype=torch.int32).reshape(bs, sizes.k))

    if draw.chance(0.3):
        doubled = [with_duplicates(draw, own) for own in ids]
        changed = any(not torch.equal(a, b) for a, b in zip(doubled, ids, strict=True))
        if changed and fits(sizes, doubled, masks):
            tags |= {"ids:duplicates"}
            ids = doubled
    if not_routed:
        leave_out(draw, ids)
    for own, mask in zip(ids, masks, strict=True):
        if mask is not None and draw.chance(0.7):
            masked = ~(mask[:, None] if mask.dim() == 1 else mask).expand_as(own)
            table = torch.tensor(GARBAGE_IDS, dtype=torch.int32)
            which = torch.randint(len(table), own.shape, generator=draw.generator)
            own[masked] = table[which][masked]
            tags |= {"ids:garbage"}
    return ids


def draw_token(
    draw: Draw, k: int, pool: list[int], specials: list[int], special_share: float
) -> list[int]:
    """Ids of one token: distinct experts, and special ones that may repeat."""
    num_special = sum(draw.chance(special_share) for _ in range(k)) if specials else 0
    num_special = max(num_special, k - len(pool))
    ids = draw.random.sample(pool, k - num_special) + [
        draw.pick(specials) for _ in range(num_special)
    ]
    draw.random.shuffle(ids)
    return ids


def leave_out(draw: Draw, ids: list[Tensor]) -> None:
    """Some choices, and now and then all choices of a token, become -1."""
    share = draw.pick([0.1, 0.3, 0.3, 1.1])
    for own in ids:
        own[draw.uniform(*own.shape) < share] = NOT_ROUTED
        own[draw.uniform(len(own)) < share / 2] = NOT_ROUTED


def with_duplicates(draw: Draw, ids: Tensor) -> Tensor:
    """Some tokens choose what stands in one column in another column too."""
    doubled = ids.clone()
    source, target = (draw.random.randrange(ids.shape[1]) for _ in range(2))
    chosen = draw.uniform(len(ids)) < 0.5
    doubled[chosen, target] = ids[chosen, source]
    return doubled


def fits(sizes: Sizes, ids: list[Tensor], masks: list[Tensor | None]) -> bool:
    """Whether no MoE rank receives more than its A."""
    totals: Counter[tuple[int, int]] = Counter()
    for place in sizes.places:
        mask = masks[place]
        own = ids[place]
        taken = own if mask is None else own[mask]
        for expert in taken[taken < sizes.elastic.num_experts].tolist():
            totals[place % sizes.tp, expert // sizes.local] += 1
    return max(totals.values(), default=0) <= sizes.moe_capacity
