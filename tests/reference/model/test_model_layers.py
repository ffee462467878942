"""Every part of the model against a loop one can check by eye, mostly in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.reference.model.tiny_moondream import tiny_config
from trainer.model.attention import place
from trainer.model.decode_cache import DecodeCache, Suffix
from trainer.model.kv_blocks import BlockPool
from trainer.model.moe import MoeMlp
from trainer.model.moondream import Moondream
from trainer.model.published_config import MoondreamConfig
from trainer.model.region import fourier_features
from trainer.model.rope import rotate, rotation
from trainer.model.text import TextModel, prefix_mask

FLOAT64_ABSOLUTE = 1e-11
FLOAT32_ABSOLUTE = 2e-5


def scrambled(config: MoondreamConfig, seed: int = 0) -> Moondream:
    """A float64 model in which nothing is zero, so that every term shows."""
    model = Moondream.from_scratch(config, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
    return model


def random_adapter(
    config: MoondreamConfig, *, rank: int = 6, dtype=torch.float64
) -> SimpleNamespace:
    """Factors for every layer, requiring gradients."""
    text, generator = config.text, torch.Generator().manual_seed(7)
    layers = []
    for index in range(text.n_layers):
        if text.is_expert_layer(index):
            experts, inner = text.moe.num_experts, text.moe.expert_inner_dim
            each = rank // text.moe.experts_per_token
            shapes = {
                "up_a": (experts, each, text.dim), "up_b": (experts, 2 * inner, each),
                "down_a": (experts, each, inner), "down_b": (experts, text.dim, each),
            }  # fmt: skip
        else:
            shapes = {
                "up_a": (rank, text.dim), "up_b": (text.ff_dim, rank),
                "down_a": (rank, text.ff_dim), "down_b": (text.dim, rank),
            }  # fmt: skip
        factors = {
            name: (0.2 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_()
            for name, shape in shapes.items()
        }
        layers.append(SimpleNamespace(**factors, rows=None))
    return SimpleNamespace(layer=lambda index: layers[index], layers=layers)


def tensors_of(adapter: SimpleNamespace) -> list[torch.Tensor]:
    return [t for layer in adapter.layers for t in vars(layer).values() if t is not None]


def naive_moe(mlp: MoeMlp, x_BTD: torch.Tensor, factors: SimpleNamespace | None) -> torch.Tensor:
    rows = []
    for x in x_BTD.flatten(0, 1):
        logits = mlp.router.weight @ x + mlp.router.bias
        chosen = logits.argsort(descending=True)[: mlp.experts_per_token]
        shares = logits[chosen].exp() / logits[chosen].exp().sum()
        y = torch.zeros_like(x)
        for share, expert in zip(shares, chosen.tolist(), strict=True):
            up, down = mlp.fc1.weight[expert], mlp.fc2.weight[expert]
            if factors is not None:
                up = up + factors.up_b[expert] @ factors.up_a[expert]
                down = down + factors.down_b[expert] @ factors.down_a[expert]
            inner = up @ x
            half = len(inner) // 2
            value, gate = inner[:half], inner[half:]
            value = value * 0.5 * (1 + torch.erf(value / math.sqrt(2)))
            y = y + share * (down @ (value * (gate + 1)))
        rows.append(y)
    return torch.stack(rows).view_as(x_BTD)


@pytest.mark.parametrize("has_adapter", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 11])
def test_experts_equal_a_loop_over_tokens_in_value_and_gradient(has_adapter, num_tokens):
    config = tiny_config()
    mlp = scrambled(config).text.blocks[1].mlp
    adapter = random_adapter(config).layers[1] if has_adapter else None
    x = torch.randn(2, num_tokens, 32, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, num_tokens, 32, dtype=torch.float64)
    factors = vars(adapter).values() if adapter else ()
    inputs = [x, *mlp.parameters(), *(factor for factor in factors if factor is not None)]
    got, logits = mlp(x, adapter)
    wanted = naive_moe(mlp, x, adapter)
    assert torch.allclose(got, wanted, atol=FLOAT64_ABSOLUTE)
    assert torch.allclose(logits, mlp.router(x))
    got_grads = torch.autograd.grad((got * weight).sum(), inputs)
    wanted_grads = torch.autograd.grad((wanted * weight).sum(), inputs)
    for got_grad, wanted_grad in zip(got_grads, wanted_grads, strict=True):
        assert torch.allclose(got_grad, wanted_grad, atol=FLOAT64_ABSOLUTE)


def test_experts_give_the_same_bits_every_time():
    mlp = Moondream.from_scratch(tiny_config(), seed=0).text.blocks[2].mlp
    x = torch.randn(3, 50, 32, requires_grad=True)
    runs = []
    for _ in range(3):
        y, _ = mlp(x)
        runs.append((y, *torch.autograd.grad(y.square().sum(), [x, *mlp.parameters()])))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_rotation_equals_a_loop_over_pairs():
    positions = torch.tensor([[0, 1, 5, 900]])
    x = torch.randn(1, 4, 2, 16, dtype=torch.float64)
    got = rotate(x, *rotation(positions, theta=10000.0, rotated_dim=8, dtype=torch.float64))
    wanted = x.clone()
    for t, position in enumerate(positions[0].tolist()):
        for i in range(4):  # pairs (i, i + 4); values 8...15 stay
            angle = position * 10000.0 ** (-2 * i / 8)
            a, b = x[0, t, :, i], x[0, t, :, i + 4]
            wanted[0, t, :, i] = a * math.cos(angle) - b * math.sin(angle)
            wanted[0, t, :, i + 4] = a * math.sin(angle) + b * math.cos(angle)
    assert torch.allclose(got, wanted, atol=FLOAT64_ABSOLUTE)


@pytest.mark.parametrize("tau_gelu", ["tanh", "none"])
def test_tau_equals_its_formula(tau_gelu):
    config = tiny_config(tau_gelu=tau_gelu)
    tau = scrambled(config).text.blocks[0].attn.tau
    qkv = torch.randn(1, 3, 96, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 700]])
    placement = place(config.text, positions, None, num_cached=0, dtype=torch.float64)
    got_q, got_v = tau(qkv, placement.log_position_BT)
    for t, position in enumerate(positions[0].tolist()):
        u = qkv[0, t]
        if tau_gelu == "tanh":
            f = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        else:
            f = 0.5 * u * (1 + torch.erf(u / math.sqrt(2)))
        by_position = 1 / (1 + torch.exp(-tau.alpha * math.log(position + 1))) + 0.5
        assert torch.allclose(
            got_q[0, t], torch.tanh(tau.wq @ f) + by_position, atol=FLOAT64_ABSOLUTE
        )
        assert torch.allclose(
            got_v[0, t], torch.tanh(tau.wv @ f) + by_position, atol=FLOAT64_ABSOLUTE
        )


def test_a_fresh_tau_changes_nothing():
    config = tiny_config()
    tau = Moondream.from_scratch(config, seed=0).text.blocks[0].attn.tau
    placement = place(config.text, torch.arange(9)[None], None, num_cached=0, dtype=torch.float32)
    for factor in tau(torch.randn(1, 9, 96), placement.log_position_BT):
        assert torch.equal(factor, torch.ones(1, 9, 2))


@pytest.mark.parametrize("model_type", ["moondream1", "moondream3"])
def test_an_adapter_equals_merged_weights(model_type):
    config = tiny_config(model_type)
    model, adapter = scrambled(config).text, random_adapter(config)
    embeds = torch.randn(2, 9, 32, dtype=torch.float64)
    got = model(embeds, positions_BT=torch.arange(9)[None], adapter=adapter)
    assert not torch.allclose(got, model(embeds, positions_BT=torch.arange(9)[None]), atol=1e-3)
    with torch.no_grad():
        for block, factors in zip(model.blocks, adapter.layers, strict=True):
            block.mlp.fc1.weight += (
                factors.up_b @ factors.up_a
            )  # batched over experts where there are any
            block.mlp.fc2.weight += factors.down_b @ factors.down_a
    merged = model(embeds, positions_BT=torch.arange(9)[None])
    assert torch.allclose(got, merged, atol=1e-9)


@pytest.mark.parametrize("model_type", ["moondream1", "moondream3"])
def test_gradients_reach_every_float32_factor_over_a_bfloat16_base(model_type):
    config = tiny_config(model_type)
    model = Moondream.from_scratch(config, seed=0).to(torch.bfloat16).requires_grad_(False)
    adapter = random_adapter(config, dtype=torch.float32)
    embeds = torch.randn(2, 30, 32, dtype=torch.bfloat16)
    hidden = model.text(embeds, positions_BT=torch.arange(30)[None], adapter=adapter)
    assert hidden.dtype == torch.bfloat16
    hidden.float().square().mean().backward()
    for tensor in tensors_of(adapter):
        assert tensor.grad.dtype == torch.float32
        assert tensor.grad.abs().sum() > 0


def test_recomputing_layers_changes_no_gradient():
    config = tiny_config()
    model = scrambled(config).text
    embeds = torch.randn(2, 7, 32, dtype=torch.float64)
    gradients, routers = [], []
    for recompute in (False, True):
        adapter, router_logits = random_adapter(config), []
        hidden = model(
            embeds,
            positions_BT=torch.arange(7)[None],
            adapter=adapter,
            router_logits=router_logits,
            recompute=recompute,
        )
        hidden.square().sum().backward()
        gradients.append([tensor.grad for tensor in tensors_of(adapter)])
        routers.append(router_logits)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert [tuple(logits.shape) for logits in routers[1]] == [(2, 7, 6), (2, 7, 6)]
    assert all(torch.equal(a, b) for a, b in zip(*routers, strict=True))


def test_prefix_mask_is_bidirectional_in_the_prefix_and_causal_after_it():
    mask = prefix_mask(6, 3)[0]
    for i in range(6):
        for j in range(6):
            assert mask[i, j].item() == (j <= i or (i < 3 and j < 3))
    assert torch.equal(prefix_mask(5, 0), prefix_mask(5, 1))


def test_no_mask_means_causal():
    model = scrambled(tiny_config()).text
    embeds = torch.randn(2, 8, 32, dtype=torch.float64)
    positions = torch.arange(8)[None]
    plain = model(embeds, positions_BT=positions)
    masked = model(embeds, positions_BT=positions, attention_mask_BTS=prefix_mask(8, 0))
    assert torch.allclose(plain, masked, atol=FLOAT64_ABSOLUTE)


@torch.no_grad()
def test_prompts_in_chunks_and_rows_that_share_them_equal_whole_sequences():
    """Two prompts of different length, three and two rows; rows leave on the way."""
    model = scrambled(tiny_config()).text
    prompts = [torch.randn(1, length, 32, dtype=torch.float64) for length in (6, 4)]
    tails = torch.randn(5, 5, 32, dtype=torch.float64)
    caches, wholes = [], []
    for prompt, rows in zip(prompts, ((0, 1, 2), (3, 4)), strict=True):
        length = prompt.shape[1]
        cache = model.new_cache(1, length)
        positions = torch.arange(length)[None]
        mask = prefix_mask(length, 3)
        for chunk in (slice(0, 3), slice(3, length)):
            model(
                prompt[:, chunk],
                positions_BT=positions[:, chunk],
                attention_mask_BTS=mask[:, chunk, : chunk.stop],
                cache=cache,
            )
        caches.append((cache, len(rows)))
        wholes.append(
            model(
                torch.cat([prompt.expand(len(rows), -1, -1), tails[list(rows)]], 1),
                positions_BT=torch.arange(length + 5)[None],
                attention_mask_BTS=prefix_mask(length + 5, 3),
            )[:, length:]
        )
    whole = torch.cat(wholes)
    pool = pool_of(model, 5)
    suffixes = [Suffix(pool, 5) for _ in range(5)]
    decode = DecodeCache(pool, caches, suffixes)
    kept = [0, 1, 2, 3, 4]
    for step, leaving in ((0, ()), (1, (1,)), (2, ()), (3, (3, 4)), (4, ())):
        if leaving:
            kept = [row for row in kept if row not in leaving]
            counts = [sum(row < 3 for row in kept), sum(row >= 3 for row in kept)]
            prompts = [(cache, n) for (cache, _), n in zip(caches, counts, strict=True) if n]
            decode = DecodeCache(pool, prompts, [suffixes[row] for row in kept])
        out = model(tails[kept, step : step + 1], positions_BT=decode.positions_B1, cache=decode)
        assert torch.allclose(out[:, 0], whole[kept, step], atol=FLOAT64_ABSOLUTE)
    assert caches[0][0].length == 6  # the prompt itself is untouched
    with pytest.raises(ValueError, match="all 5 positions"):
        model(tails[kept, :1], positions_BT=decode.positions_B1, cache=decode)


def pool_of(model, num_blocks: int) -> BlockPool:
    return BlockPool(model.config, num_blocks, device="cpu", dtype=torch.float64)


@torch.no_grad()
def test_rows_that_join_late_have_suffixes_of_their_own_length():
    """The first row has left when the late one needs the slots that only it has."""
    model = scrambled(tiny_config()).text
    prompts, tails = (torch.randn(2, n, 32, dtype=torch.float64) for n in (4, 20))
    caches = []
    for prompt in prompts:
        cache = model.new_cache(1, 4)
        model(prompt[None], positions_BT=torch.arange(4)[None], cache=cache)
        caches.append(cache)
    whole = model(torch.cat([prompts, tails], 1), positions_BT=torch.arange(24)[None])[:, 4:]
    pool = pool_of(model, 3)
    first, late = Suffix(pool, 4), Suffix(pool, 20)
    decode = DecodeCache(pool, [(caches[0], 1)], [first])
    for step in range(3):
        model(tails[:1, step : step + 1], positions_BT=decode.positions_B1, cache=decode)
    decode = DecodeCache(pool, [(caches[0], 1), (caches[1], 1)], [first, late], num_padding=2)
    both = torch.stack([tails[0, 3], tails[1, 0]])[:, None]
    padded = torch.cat([both, torch.full((2, 1, 32), 7.0, dtype=torch.float64)])
    out = model(padded, positions_BT=decode.positions_B1, cache=decode)
    assert torch.allclose(out[0, 0], whole[0, 3], atol=FLOAT64_ABSOLUTE)
    assert torch.allclose(out[1, 0], whole[1, 0], atol=FLOAT64_ABSOLUTE)
    first.end()
    assert (pool.num_used, pool.num_promised) == (1, 2)
    decode = DecodeCache(pool, [(caches[1], 1)], [late])
    for step in range(1, 20):
        out = model(tails[1:, step : step + 1], positions_BT=decode.positions_B1, cache=decode)
        assert torch.allclose(out[0, 0], whole[1, step], atol=FLOAT64_ABSOLUTE)


@pytest.mark.parametrize("has_mask", [False, True])
@torch.no_grad()
def test_one_wanted_position_of_each_row_is_that_of_the_whole(has_mask):
    model = scrambled(tiny_config()).text
    embeds = torch.randn(3, 7, 32, dtype=torch.float64)
    given = {
        "positions_BT": torch.arange(7)[None],
        "attention_mask_BTS": prefix_mask(7, 3) if has_mask else None,
    }
    wanted = torch.tensor([6, 3, 4])
    by_structure = model(
        embeds, positions_BT=given["positions_BT"], prefix_len=3 if has_mask else 0
    )
    caches = [model.new_cache(3, 7) for _ in range(2)]
    whole = model(embeds, cache=caches[0], **given)
    found = model(embeds, cache=caches[1], wanted_B=wanted, **given)
    assert torch.allclose(found[:, 0], whole[torch.arange(3), wanted], atol=FLOAT64_ABSOLUTE)
    assert torch.allclose(by_structure, whole, atol=FLOAT64_ABSOLUTE)
    assert torch.equal(caches[0].keys_LBHSd, caches[1].keys_LBHSd)
    assert torch.equal(caches[0].values_LBHSd, caches[1].values_LBHSd)


def test_branches_packed_behind_one_prefix_equal_separate_sequences():
    model = scrambled(tiny_config()).text
    prefix, branches = (
        torch.randn(1, 6, 32, dtype=torch.float64),
        torch.randn(2, 3, 32, dtype=torch.float64),
    )
    whole = model(
        torch.cat([prefix.expand(2, -1, -1), branches], 1),
        positions_BT=torch.arange(9)[None],
        attention_mask_BTS=prefix_mask(9, 4),
    )
    mask = prefix_mask(12, 4).clone()
    mask[0, 9:, 6:9] = False  # the second branch does not see the first
    packed = model(
        torch.cat([prefix, branches[:1], branches[1:]], 1),
        positions_BT=torch.tensor([[*range(6), 6, 7, 8, 6, 7, 8]]),
        attention_mask_BTS=mask,
    )
    assert torch.allclose(packed[0, :9], whole[0], atol=FLOAT64_ABSOLUTE)
    assert torch.allclose(packed[0, 9:], whole[1, 6:], atol=FLOAT64_ABSOLUTE)


def test_misuse_is_refused_with_both_values():
    model = scrambled(tiny_config()).text
    embeds = torch.randn(2, 4, 32, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"\[1, 5\]"):
        model(embeds, positions_BT=torch.arange(5)[None])
    with pytest.raises(ValueError, match="attention mask"):
        model(embeds, positions_BT=torch.arange(4)[None], attention_mask_BTS=prefix_mask(5, 0))
    cache = model.new_cache(2, 3)
    with pytest.raises(ValueError, match="holds 3 positions, 4"), torch.no_grad():
        model(embeds, positions_BT=torch.arange(4)[None], cache=cache)
    with pytest.raises(ValueError, match="replaces their mask"):
        model(
            embeds,
            positions_BT=torch.arange(4)[None],
            attention_mask_BTS=prefix_mask(4, 2),
            prefix_len=2,
        )
    with pytest.raises(ValueError, match="no_grad"):
        model(embeds[:, :2], positions_BT=torch.arange(2)[None], cache=cache)
    pool = pool_of(model, 2)
    suffixes = [Suffix(pool, 3), Suffix(pool, 3)]
    with pytest.raises(ValueError, match="one row, this cache has 2"):
        DecodeCache(pool, [(cache, 2)], suffixes)
    with pytest.raises(ValueError, match="the prompts have 1 rows, suffixes are 2"):
        DecodeCache(pool, [(model.new_cache(1, 3), 1)], suffixes)
    with pytest.raises(ValueError, match="1 blocks were wanted, 0 are free"):
        Suffix(pool, 1)
    rows = DecodeCache(pool, [(model.new_cache(1, 3), 2)], suffixes)
    with pytest.raises(ValueError, match="grow by one position"), torch.no_grad():
        model(embeds, positions_BT=torch.arange(4)[None], cache=rows)
    with pytest.raises(ValueError, match="cache has 2 rows, the input has 1"), torch.no_grad():
        model(embeds[:1, :1], positions_BT=torch.zeros(1, 1, dtype=torch.long), cache=rows)


def test_logits_of_some_rows_equal_those_rows():
    model = scrambled(tiny_config()).text
    hidden = torch.randn(3, 2, 32, dtype=torch.float64)
    rows = torch.tensor([5, 0, 63])
    assert torch.allclose(
        model.logits(hidden, rows), model.logits(hidden)[..., rows], atol=FLOAT64_ABSOLUTE
    )


def test_fourier_features_equal_their_formula():
    v, w = torch.tensor([[0.3, 0.8]], dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    angles = [2 * math.pi * (0.3 * w[0, i].item() + 0.8 * w[1, i].item()) for i in range(4)]
    wanted = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    assert fourier_features(v, w)[0].tolist() == pytest.approx(wanted)


def test_size_logits_are_width_then_height():
    region = scrambled(tiny_config()).region
    hidden = torch.randn(3, 32, dtype=torch.float64)
    flat = region.size_decoder(region.ln(hidden))
    got = region.size_logits(hidden)
    assert torch.equal(got[:, 0], flat[:, :1024])
    assert torch.equal(got[:, 1], flat[:, 1024:])


def naive_pool(map_HWC: np.ndarray, side: int) -> np.ndarray:
    height, width, _ = map_HWC.shape
    pooled = np.empty((side, side, map_HWC.shape[2]))
    for i in range(side):
        for j in range(side):
            top, bottom = i * height // side, -(-(i + 1) * height // side)
            left, right = j * width // side, -(-(j + 1) * width // side)
            pooled[i, j] = map_HWC[top:bottom, left:right].mean((0, 1))
    return pooled


@pytest.mark.parametrize("tiling", [(1, 1), (2, 3), (3, 1), (1, 4)])
def test_stitching_equals_pasting_by_hand(tiling):
    vision = scrambled(tiny_config()).vision
    rows, cols = tiling  # 6 x 6 patches, margin 1: a tile owns 4 x 4 of a map of 4 * n + 2
    tiles = torch.randn(rows * cols, 36, 16, dtype=torch.float64)
    pasted = np.empty((4 * rows + 2, 4 * cols + 2, 16))
    for index, tile in enumerate(tiles.view(-1, 6, 6, 16).numpy()):
        row, col = divmod(index, cols)
        for i in range(6):
            for j in range(6):
                is_mine = (
                    1 <= i < 5 or (i == 0 and row == 0) or (i == 5 and row == rows - 1)
                ) and (1 <= j < 5 or (j == 0 and col == 0) or (j == 5 and col == cols - 1))
                if is_mine:
                    pasted[4 * row + i, 4 * col + j] = tile[i, j]
    wanted = naive_pool(pasted, 6).reshape(36, 16)
    assert np.allclose(vision.stitch(tiles, tiling).numpy(), wanted, atol=FLOAT64_ABSOLUTE)


def test_patches_are_ordered_by_channel_then_row_then_column():
    vision = scrambled(tiny_config()).vision
    x = torch.randn(2, 42, 42, 3, dtype=torch.float64)
    patches = vision.patchify(x)
    assert patches.shape == (2, 36, 147)
    for channel, row, column in [(0, 0, 0), (1, 3, 2), (2, 6, 6)]:
        value = x[1, 2 * 7 + row, 4 * 7 + column, channel]
        assert patches[1, 2 * 6 + 4, (channel * 7 + row) * 7 + column] == value


def test_images_encode_the_same_alone_and_together_and_gradients_reach_the_tower():
    vision = Moondream.from_scratch(tiny_config(), seed=0).vision
    rng = np.random.default_rng(0)
    images = [
        (rng.integers(0, 256, (1 + rows * cols, 42, 42, 3), dtype=np.uint8), (rows, cols))
        for rows, cols in [(1, 1), (2, 3), (1, 1)]
    ]
    images[0][0][1] = images[0][0][0]
    images[2][0][1] = images[2][0][0]
    together = vision.encode_images(images)
    alone = torch.cat([vision.encode_images([image]) for image in images])
    assert together.shape == (3, 36, 32)
    assert torch.allclose(together, alone, atol=FLOAT32_ABSOLUTE)
    together.square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in vision.parameters())


def test_the_reused_crop_gives_what_the_tower_would_give():
    vision = scrambled(tiny_config()).vision
    crop = np.random.default_rng(1).integers(0, 256, (42, 42, 3), dtype=np.uint8)
    crops = np.stack([crop, crop])
    x = vision.tower(vision.normalise(crops))
    wanted = vision.proj_mlp(torch.cat([x[0], vision.stitch(x[1:], (1, 1))], dim=-1))
    assert torch.allclose(vision.encode_images([(crops, (1, 1))])[0], wanted, atol=FLOAT64_ABSOLUTE)


def test_crops_must_fit_their_tiling():
    vision = scrambled(tiny_config()).vision
    with pytest.raises(ValueError, match="3 crops do not fit a tiling of 2 x 2"):
        vision.encode_images([(np.zeros((3, 42, 42, 3), np.uint8), (2, 2))])


def test_a_seed_decides_all_weights():
    first, second = (Moondream.from_scratch(tiny_config(), seed=4).state_dict() for _ in range(2))
    other = Moondream.from_scratch(tiny_config(), seed=5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.text.wte"], other["model.text.wte"])
    assert all(torch.isfinite(tensor).all() for tensor in first.values())


def test_a_fresh_model_predicts_nearly_uniformly():
    config = tiny_config()
    text: TextModel = Moondream.from_scratch(config, seed=0).text
    hidden = text(text.embed_tokens(torch.arange(20)[None]), positions_BT=torch.arange(20)[None])
    log_probabilities = functional.log_softmax(text.logits(hidden), -1)
    assert log_probabilities.std().item() < 0.3
