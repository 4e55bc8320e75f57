"""The demo model of examples/tiny_moe: its weights file, its arithmetic and its text."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "examples" / "tiny_moe"), str(ROOT / "python")]

pytest.importorskip("safetensors")

import corpus  # noqa: E402
import model as tiny  # noqa: E402
from prompts import MAX_PROMPT, PROMPTS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> tiny.TinyMoE:
    return tiny.TinyMoE.load()


@pytest.fixture
def ranks(model: tiny.TinyMoE) -> list[Tensor]:
    """Rows for the MoE layer of three ranks with different numbers of tokens."""
    generator = torch.Generator().manual_seed(1)
    sizes = (5, 1, 12)
    return [torch.randn(size, model.config.hidden, generator=generator) for size in sizes]


def text_of(
    model: tiny.TinyMoE,
    prompts: tuple[bytes, ...],
    exchange: tiny.Exchange,
    count: int,
    **options: object,
) -> list[bytes]:
    steps = list(tiny.generate(model, prompts, exchange, count, **options))
    return [b"".join(rank) for rank in zip(*steps, strict=True)]


def test_weights_file_is_small_and_describes_itself(model: tiny.TinyMoE) -> None:
    from safetensors import safe_open

    assert tiny.WEIGHTS.stat().st_size <= 8_000_000
    with safe_open(tiny.WEIGHTS, framework="pt") as file:
        stored = json.loads(file.metadata()["config"])
        names = file.keys()
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    assert tiny.Config(**stored) == model.config == tiny.Config()
    assert shapes == {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_generation_is_deterministic(model: tiny.TinyMoE) -> None:
    first = text_of(model, PROMPTS[:3], tiny.LocalExchange(), 20, seed=3)
    assert first == text_of(model, PROMPTS[:3], tiny.LocalExchange(), 20, seed=3)
    assert first != text_of(model, PROMPTS[:3], tiny.LocalExchange(), 20, seed=4)
    assert all(len(text) == 20 and text.decode().isascii() for text in first)


def test_steps_give_the_logits_of_the_whole_text(model: tiny.TinyMoE) -> None:
    text = torch.tensor(list(PROMPTS[0]))
    cache = tiny.Cache(model.config, len(text))
    exchange = tiny.LocalExchange()
    for part in (text[:30], *text[30:].split(1)):
        (logits,) = model.step([part], [cache], exchange)
    whole = model(text[None], exchange)[0, -1]
    # Rows may round to another bfloat16 when blocks of other sizes add up in another order.
    torch.testing.assert_close(logits, whole, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("exchange", [tiny.LocalExchange(), tiny.TrainingExchange()])
def test_exchange_agrees_with_a_loop_over_tokens(
    model: tiny.TinyMoE, ranks: list[Tensor], exchange: tiny.Exchange
) -> None:
    layer = model.blocks[1].moe
    got = layer(1, ranks, exchange)
    for rows, result in zip(ranks, got, strict=True):
        ids, scales = layer.route(rows)
        assert ids.dtype == torch.int32 and scales.dtype == torch.float32
        torch.testing.assert_close(scales.sum(-1), torch.ones(len(rows)))
        shared = layer.shared_expert(rows).float()
        for token, row in enumerate(rows.to(torch.bfloat16)):
            want = shared[token]
            for e, scale in zip(ids[token].tolist(), scales[token], strict=True):
                want = want + scale * layer.expert(e, row[None])[0].float()
            torch.testing.assert_close(result[token].float(), want, rtol=0.02, atol=0.02)


def test_training_exchange_has_the_gradients_of_the_formula(ranks: list[Tensor]) -> None:
    torch.manual_seed(0)
    layer = tiny.TinyMoE().blocks[0].moe
    rows = ranks[2].clone().requires_grad_()
    ids, scales = layer.route(rows)
    dense = torch.zeros_like(rows)
    wanted_by = [rows, layer.w_in, layer.w_out, layer.router]

    (y,) = tiny.TrainingExchange()(layer, 0, [rows], [ids], [scales], lambda: [dense])
    got = torch.autograd.grad(y.square().sum(), wanted_by, retain_graph=True)
    one_by_one = torch.stack([layer.expert(e, rows) for e in range(layer.config.experts)], dim=1)
    chosen = one_by_one.gather(1, ids.long()[..., None].expand(-1, -1, rows.shape[1]))
    want = torch.autograd.grad((chosen * scales[..., None]).sum(1).square().sum(), wanted_by)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_unavailable_experts_are_not_chosen(model: tiny.TinyMoE, ranks: list[Tensor]) -> None:
    layer = model.blocks[0].moe
    layer.available[4:8] = False
    try:
        ids, _ = layer.route(ranks[2])
    finally:
        layer.available[:] = True
    assert not ((ids >= 4) & (ids < 8)).any()


def test_a_step_may_be_repeated_after_an_error(model: tiny.TinyMoE) -> None:
    class Failing(tiny.LocalExchange):
        calls = itertools.count()

        def __call__(self, *args):
            if next(self.calls) in (2, 9):
                raise RuntimeError("a peer is lost")
            return super().__call__(*args)

    exchange = Failing()
    texts = [tiny.Text(model, prompt, 4, rank) for rank, prompt in enumerate(PROMPTS[:2])]
    failures = 0
    while len(texts[0].data) < len(PROMPTS[0]) + 4:
        try:
            tiny.advance(model, texts, exchange)
        except RuntimeError:
            failures += 1
    assert failures == 2
    got = [bytes(text.data[-4:]) for text in texts]
    assert got == text_of(model, PROMPTS[:2], tiny.LocalExchange(), 4)


def test_local_exchange_has_the_bits_of_the_operators(model: tiny.TinyMoE) -> None:
    reference = pytest.importorskip("waybill.reference")
    world = len(PROMPTS)
    experts = model.config.experts
    local_experts = experts // world
    group = {"ep_world_size": world, "moe_expert_num": experts, "global_bs": world * MAX_PROMPT}

    def operators(layer, layer_index, x, expert_ids, expert_scales, shared):
        arrived = reference.npu_moe_distribute_dispatch_v2(x, expert_ids, **group)
        made = [
            layer.experts(
                range(rank * local_experts, (rank + 1) * local_experts),
                part.expand_x,
                part.expert_token_nums,
            )
            for rank, part in enumerate(arrived)
        ]
        return reference.npu_moe_distribute_combine_v2(
            made,
            expert_ids,
            [part.assist_info_for_combine for part in arrived],
            [part.ep_recv_counts for part in arrived],
            expert_scales,
            shared_expert_x=shared(),
            **group,
        )

    def logits(exchange: tiny.Exchange) -> list[Tensor]:
        texts = [tiny.Text(model, prompt, 1, 0) for prompt in PROMPTS]
        caches = [text.cache for text in texts]
        after_prompt = model.step([text.pending() for text in texts], caches, exchange)
        after_byte = model.step([torch.tensor([101])] * world, caches, exchange)
        return after_prompt + after_byte

    for a, b in zip(logits(operators), logits(tiny.LocalExchange()), strict=True):
        assert torch.equal(a, b)


def test_validation_loss(model: tiny.TinyMoE) -> None:
    pytest.importorskip("rich")
    from train import bits_per_byte

    text = corpus.load(held_out=True)
    windows = text[: len(text) // 256 * 256].view(-1, 256)
    sample = windows[:: len(windows) // 24].flatten()
    trained = bits_per_byte(model, sample)
    torch.manual_seed(0)
    untrained = bits_per_byte(tiny.TinyMoE(), sample)
    print(f"held-out text: {trained:.3f} bits per byte, untrained {untrained:.3f}")
    assert trained < 2.2 < untrained
