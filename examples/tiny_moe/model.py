"""A small byte-level mixture-of-experts language model, built for expert parallelism.

Every layer is attention followed by a mixture of experts: 16 routed experts of which each token
uses 4, and one shared expert that every token uses. Attention, the router and the shared expert
are local to a rank. What crosses ranks is left to an *exchange*, a callable

    exchange(layer, layer_index, x, expert_ids, expert_scales, shared) -> y

in which every argument after `layer_index`, what `shared` returns, and the result, is a list with
one entry for each rank that this process computes for: one entry in a distributed run and in
training, R entries when one process plays a whole group of R ranks. With n tokens on a rank the
entries are

    x              (n, H) bfloat16    rows for the routed experts
    expert_ids     (n, K) int32       chosen experts, distinct within a token
    expert_scales  (n, K) float32     their weights, which sum to 1
    shared()       (n, H) bfloat16    what the shared expert makes of x; called once, when it suits
    y              (n, H) bfloat16    sum_k scale[k] * expert[id[k]](x) + shared

An exchange brings rows to their experts (dispatch), calls `layer.experts` on the rows that
arrived, and brings the results back (combine). `LocalExchange` does it within the process.

Reproducibility. Experts compute in float32 on the contiguous block of rows they were given, with
bfloat16 in and out. Blocks ordered by (expert, source rank, flat position t*K+k), as dispatch
orders them, give the same bits in one process and in many, with one torch thread in each.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights.safetensors"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the model; stored as JSON under "config" in the metadata of the weights file."""

    vocab: int = 256
    context: int = 256
    layers: int = 4
    hidden: int = 192
    heads: int = 4
    experts: int = 16
    top_k: int = 4
    expert_width: int = 96
    shared_width: int = 288
    rope_base: float = 10000.0
    norm_eps: float = 1e-6


class Exchange(Protocol):
    """How rows reach the experts and come back; see the module's description."""

    def __call__(
        self,
        layer: MoELayer,
        layer_index: int,
        x: list[Tensor],
        expert_ids: list[Tensor],
        expert_scales: list[Tensor],
        shared: Callable[[], list[Tensor]],
    ) -> list[Tensor]: ...


class Norm(nn.Module):
    """RMS normalisation, in float32."""

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Cache:
    """Keys and values of one rank's text. `length` moves only when a whole step has succeeded."""

    def __init__(self, config: Config, capacity: int) -> None:
        head = config.hidden // config.heads
        shape = (config.layers, config.heads, capacity, head)
        self.keys = torch.zeros(shape)
        self.values = torch.zeros(shape)
        self.length = 0


class Attention(nn.Module):
    """Causal attention with rotary positions over the last `context` tokens."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.context = config.context
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden, bias=False)
        self.out = nn.Linear(config.hidden, config.hidden, bias=False)

    def _heads(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, hidden = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, hidden // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return rotate(q, rotary), rotate(k, rotary), v

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Whole texts from position 0: x (batch, length, H)."""
        q, k, v = self._heads(x, rotary)
        # Written out: at this size, going back through it is twice as fast as the fused kernel.
        length = x.shape[1]
        future = torch.full((length, length), -torch.inf, dtype=q.dtype).triu(1)
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2) + future
        y = scores.softmax(-1).to(v.dtype) @ v
        return self.out(y.transpose(1, 2).reshape(x.shape))

    def step(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: Cache, layer: int) -> Tensor:
        """The next n tokens of one text: x (n, H), placed behind what the cache holds."""
        count = x.shape[0]
        start, end = cache.length, cache.length + count
        q, k, v = self._heads(x[None], rotary)
        cache.keys[layer, :, start:end] = k[0]
        cache.values[layer, :, start:end] = v[0]
        first = max(0, start + 1 - self.context)
        key_position = torch.arange(first, end)
        query_position = torch.arange(start, end)[:, None]
        visible = (key_position <= query_position) & (key_position > query_position - self.context)
        keys = cache.keys[layer, :, first:end]
        values = cache.values[layer, :, first:end]
        scores = q[0] @ keys.transpose(1, 2) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        return self.out((weights @ values).transpose(0, 1).reshape(x.shape))


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding: turns the two halves of each head by the token's angles."""
    cos, sin = rotary
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class MoELayer(nn.Module):
    """Router, routed experts and shared expert of one layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        experts, width, hidden = config.experts, config.expert_width, config.hidden
        self.router = nn.Parameter(torch.empty(experts, hidden))
        # Steers the choice of experts, not their weights; training moves it to even out the load.
        self.register_buffer("balance", torch.zeros(experts))
        self.register_buffer("available", torch.ones(experts, dtype=torch.bool), persistent=False)
        self.w_in = nn.Parameter(torch.empty(experts, width, hidden))
        self.w_out = nn.Parameter(torch.empty(experts, hidden, width))
        self.shared_in = nn.Parameter(torch.empty(config.shared_width, hidden))
        self.shared_out = nn.Parameter(torch.empty(hidden, config.shared_width))

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Chooses experts for the rows of x (n, H).

        Returns expert_ids (n, K) int32 and expert_scales (n, K) float32, the sigmoid scores of
        the chosen experts divided by their sum. Experts whose `available` flag is false are
        never chosen, so that a group can go on without the ranks that held them.
        """
        with torch.autocast("cpu", enabled=False):
            scores = F.linear(x.float(), self.router).sigmoid()
            preference = (scores.detach() + self.balance).masked_fill(~self.available, -torch.inf)
            ids = preference.topk(self.config.top_k, dim=-1).indices
            chosen = scores.gather(-1, ids)
            return ids.to(torch.int32), chosen / chosen.sum(-1, keepdim=True)

    def shared_expert(self, x: Tensor) -> Tensor:
        """The expert that every token uses, on the rows of x (n, H); the result is bfloat16."""
        hidden = F.gelu(F.linear(x, self.shared_in))
        return F.linear(hidden, self.shared_out).to(torch.bfloat16)

    def expert(self, e: int, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Routed expert e on a contiguous block of rows (n, H), of any float dtype.

        Computes in float32; the result has the dtype of `rows`, or is written to `out` (n, H).
        """
        hidden = F.gelu(F.linear(rows.float(), self.w_in[e]))
        result = F.linear(hidden, self.w_out[e])
        return result.to(rows.dtype) if out is None else out.copy_(result)

    def experts(
        self,
        experts: Sequence[int],
        rows: Tensor,
        counts: Sequence[int] | Tensor,
        out: Tensor | None = None,
    ) -> Tensor:
        """experts[0], experts[1], ... on consecutive blocks of counts[0], counts[1], ... rows.

        `rows` may be longer than the sum of the counts, as dispatch's expand_x is; rows behind it
        are not read. The result, `out` if given, has as many rows as `rows`; what it holds behind
        the sum is left as it was.
        """
        if out is None:
            out = torch.empty_like(rows)
        begin = 0
        for expert, count in zip(experts, torch.as_tensor(counts).tolist(), strict=True):
            if count:
                end = begin + count
                self.expert(expert, rows[begin:end], out[begin:end])
                begin = end
        return out

    def forward(self, layer_index: int, x: list[Tensor], exchange: Exchange) -> list[Tensor]:
        """The layer for every rank of this process: x[r] (n_r, H), normalised, any float dtype."""
        routes = [self.route(rows) for rows in x]
        return exchange(
            self,
            layer_index,
            [rows.to(torch.bfloat16) for rows in x],
            [ids for ids, _ in routes],
            [scales for _, scales in routes],
            lambda: [self.shared_expert(rows) for rows in x],
        )


class LocalExchange:
    """All experts in this process, for any number of ranks.

    Blocks have the rows and the order that dispatch gives them, and the sum is in combine's order,
    so the result has the bits of a distributed run over the same ranks.
    """

    def instances(
        self, layer: MoELayer, layer_index: int, expert_ids: list[Tensor]
    ) -> tuple[list[Tensor], list[int]]:
        """The ids of the blocks that rows go to, and the expert of each block; -1: none."""
        return expert_ids, list(range(layer.config.experts))

    def __call__(
        self,
        layer: MoELayer,
        layer_index: int,
        x: list[Tensor],
        expert_ids: list[Tensor],
        expert_scales: list[Tensor],
        shared: Callable[[], list[Tensor]],
    ) -> list[Tensor]:
        blocks, experts = self.instances(layer, layer_index, expert_ids)
        ids = torch.cat(blocks)
        top_k = ids.shape[1]
        order = ids.flatten().argsort(stable=True)
        counts = ids.flatten().bincount(minlength=len(experts))
        rows = layer.experts(experts, torch.cat(x)[order // top_k], counts)
        returned = torch.empty_like(rows)
        returned[order] = rows
        results = returned.view(*ids.shape, -1).split([len(part) for part in x])
        y = []
        for parts, scales, dense in zip(results, expert_scales, shared(), strict=True):
            total = torch.zeros(dense.shape)
            for k in range(top_k):
                total = total + parts[:, k].float() * scales[:, k : k + 1]
            y.append((total + dense.float()).to(dense.dtype))
        return y


class Gather(torch.autograd.Function):
    """x[source]; row i of x is used at the places[i] only, so going back is a gather too."""

    @staticmethod
    def forward(ctx, x: Tensor, source: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return x.index_select(0, source)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return grad.index_select(0, places.flatten()).view(*places.shape, -1).sum(1), None, None


class Combine(torch.autograd.Function):
    """sum_k scales[t, k] * made[places[t, k]]."""

    @staticmethod
    def forward(ctx, made: Tensor, scales: Tensor, places: Tensor) -> Tensor:
        rows = made.index_select(0, places.flatten()).view(*places.shape, -1)
        ctx.save_for_backward(rows, scales, places)
        ctx.slots = made.shape[0]
        return torch.bmm(scales[:, None], rows)[:, 0]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, scales, places = ctx.saved_tensors
        made = grad.new_zeros(ctx.slots, grad.shape[-1])
        made[places.flatten()] = (grad[:, None] * scales[..., None]).flatten(0, 1)
        return made, torch.bmm(rows, grad[..., None])[..., 0], None


class TrainingExchange:
    """What `LocalExchange` computes, differentiable and fast for thousands of tokens.

    All experts run as one batched product, so their blocks are padded to a common length, in
    steps of `step` rows: a CPU's matrix kernels are built anew for every shape they meet.
    Keeps the rows that each expert of each layer got in the last call, in `load[layer_index]`.
    """

    def __init__(self, step: int = 256) -> None:
        self.step = step
        self.load: dict[int, Tensor] = {}

    def __call__(
        self,
        layer: MoELayer,
        layer_index: int,
        x: list[Tensor],
        expert_ids: list[Tensor],
        expert_scales: list[Tensor],
        shared: Callable[[], list[Tensor]],
    ) -> list[Tensor]:
        y = []
        for rows, ids, scales, dense in zip(x, expert_ids, expert_scales, shared(), strict=True):
            flat = ids.flatten().long()
            experts = layer.config.experts
            self.load[layer_index] = load = flat.bincount(minlength=experts)
            length = -(-int(load.max()) // self.step) * self.step
            order = flat.argsort(stable=True)
            chosen = flat[order]
            slot = chosen * length + torch.arange(len(flat)) - (load.cumsum(0) - load)[chosen]
            places = torch.empty_like(order).index_copy_(0, order, slot).view_as(ids)
            source = torch.zeros(experts * length, dtype=torch.long)
            source[slot] = order // ids.shape[1]
            blocks = Gather.apply(rows, source, places).view(experts, length, -1)
            hidden = F.gelu(torch.bmm(blocks, layer.w_in.to(rows.dtype).transpose(1, 2)))
            made = torch.bmm(hidden, layer.w_out.to(rows.dtype).transpose(1, 2)).flatten(0, 1)
            y.append(Combine.apply(made, scales.to(rows.dtype), places) + dense)
        return y


class Block(nn.Module):
    """Attention, then the mixture of experts, each added to the stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = Norm(config.hidden, config.norm_eps)
        self.attention = Attention(config)
        self.moe_norm = Norm(config.hidden, config.norm_eps)
        self.moe = MoELayer(config)


class TinyMoE(nn.Module):
    """The language model; input and output are bytes."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config = config or Config()
        self.embedding = nn.Parameter(torch.empty(config.vocab, config.hidden))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.hidden, config.norm_eps)
        self.head = nn.Linear(config.hidden, config.vocab, bias=False)
        self.reset()

    def reset(self) -> None:
        """Draws new weights from torch's global generator."""
        depth = 1 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            std = 0.5 if name == "embedding" else 1 / math.sqrt(parameter.shape[-1])
            if name.endswith(("w_out", "shared_out", "attention.out.weight")):
                std *= depth
            nn.init.normal_(parameter, std=std)

    def rotary(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (end - start, head/2) of the rotary angles."""
        half = self.config.hidden // self.config.heads // 2
        frequency = self.config.rope_base ** (-torch.arange(half) / half)
        angle = torch.arange(start, end)[:, None] * frequency
        return angle.cos(), angle.sin()

    def forward(self, tokens: Tensor, exchange: Exchange) -> Tensor:
        """Logits (batch, length, vocab) of whole texts (batch, length), all on one rank."""
        rotary = self.rotary(0, tokens.shape[1])
        x = F.embedding(tokens, self.embedding)
        for index, block in enumerate(self.blocks):
            x = x + block.attention(block.attention_norm(x), rotary)
            (y,) = block.moe(index, [block.moe_norm(x).flatten(0, 1)], exchange)
            x = x + y.view_as(x)
        return self.head(self.norm(x))

    @torch.no_grad()
    def step(self, tokens: list[Tensor], caches: list[Cache], exchange: Exchange) -> list[Tensor]:
        """Appends tokens[r] (n_r,) to the text of every rank r of this process.

        Returns, for each rank, the logits (vocab,) of the byte that follows. When the exchange
        raises, the caches are as before the call, and the call may be repeated.
        """
        spans = [(c.length, c.length + len(t)) for c, t in zip(caches, tokens, strict=True)]
        rotary = [self.rotary(*span) for span in spans]
        x = [F.embedding(t, self.embedding) for t in tokens]
        for index, block in enumerate(self.blocks):
            x = [
                rows + block.attention.step(block.attention_norm(rows), angles, cache, index)
                for rows, angles, cache in zip(x, rotary, caches, strict=True)
            ]
            y = block.moe(index, [block.moe_norm(rows) for rows in x], exchange)
            x = [rows + part.float() for rows, part in zip(x, y, strict=True)]
        for cache, (_, end) in zip(caches, spans, strict=True):
            cache.length = end
        return [self.head(self.norm(rows[-1])) for rows in x]

    def save(self, path: Path | str, **metadata: str) -> None:
        """Writes the weights as bfloat16 safetensors, with the config in the header."""
        from safetensors.torch import save_file

        tensors = {
            name: value.to(torch.float32 if name.endswith("balance") else torch.bfloat16)
            for name, value in self.state_dict().items()
        }
        header = {"config": json.dumps(dataclasses.asdict(self.config)), **metadata}
        save_file(tensors, path, metadata=header)

    @classmethod
    def load(cls, path: Path | str = WEIGHTS) -> TinyMoE:
        """Reads what `save` wrote; weights are float32 in memory."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            model = cls(Config(**json.loads(file.metadata()["config"])))
            names = file.keys()
            model.load_state_dict({name: file.get_tensor(name).float() for name in names})
        return model.eval().requires_grad_(False)


class Text:
    """One rank's text while it is being generated: its bytes, cache and random numbers."""

    def __init__(self, model: TinyMoE, prompt: bytes, new_tokens: int, seed: int) -> None:
        if not prompt:
            raise ValueError("a prompt needs at least one byte")
        self.data = bytearray(prompt)
        self.cache = Cache(model.config, len(prompt) + new_tokens)
        self.generator = torch.Generator().manual_seed(seed)

    def pending(self) -> Tensor:
        """Tokens the model has not seen yet: the prompt at first, then one byte per step."""
        return torch.tensor(list(self.data[self.cache.length :]))


# Sampling is kept to what a terminal can show.
PRINTABLE = torch.zeros(256, dtype=torch.bool)
PRINTABLE[[ord("\n"), *range(32, 127)]] = True


def repetition(data: bytes | bytearray, window: int = 256, free: int = 12) -> Tensor:
    """For every byte, by how many bytes beyond `free` it would prolong a repetition of the text.

    Small models fall into loops; code repeats itself by nature, so short repetitions are free.
    """
    excess = torch.zeros(256)
    last = len(data) - 1
    for end in range(max(0, last - window), last):
        length = 0
        while length <= end and data[end - length] == data[last - length]:
            length += 1
        following = data[end + 1]
        excess[following] = max(float(excess[following]), length - free)
    return excess


def sample(text: Text, logits: Tensor, temperature: float, top_k: int) -> int:
    """Draws the byte that continues the text; temperature 0 takes the likeliest."""
    logits = (logits - 0.25 * repetition(text.data)).masked_fill(~PRINTABLE, -torch.inf)
    if temperature == 0:
        return int(logits.argmax())
    values, indices = logits.topk(top_k)
    weights = (values / temperature).softmax(-1)
    return int(indices[torch.multinomial(weights, 1, generator=text.generator)])


def advance(
    model: TinyMoE,
    texts: Sequence[Text],
    exchange: Exchange,
    temperature: float = 0.6,
    top_k: int = 20,
) -> list[bytes]:
    """One step for every text; returns the new byte of each. May be repeated after an error."""
    logits = model.step([t.pending() for t in texts], [t.cache for t in texts], exchange)
    for text, row in zip(texts, logits, strict=True):
        text.data.append(sample(text, row, temperature, top_k))
    return [bytes(text.data[-1:]) for text in texts]


def generate(
    model: TinyMoE,
    prompts: Sequence[bytes],
    exchange: Exchange,
    new_tokens: int,
    *,
    temperature: float = 0.6,
    top_k: int = 20,
    seed: int = 0,
    ranks: Sequence[int] | None = None,
) -> Iterator[list[bytes]]:
    """Continues one prompt per rank of this process, yielding the new byte of each, step by step.

    The first step feeds whole prompts (n_r tokens on rank r), later ones feed one token per rank.
    `ranks` are the ranks the prompts belong to, by default 0, 1, ...; they seed the sampling, so
    a rank draws the same numbers in a process of its own and in one that plays the whole group.
    """
    ranks = range(len(prompts)) if ranks is None else ranks
    texts = [
        Text(model, prompt, new_tokens, seed * 1000 + rank)
        for prompt, rank in zip(prompts, ranks, strict=True)
    ]
    for _ in range(new_tokens):
        yield advance(model, texts, exchange, temperature, top_k)
