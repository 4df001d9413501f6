"""Every kind of backbone against timm's own forward pass, and the conv stem against torch's layers."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import TINY, assert_close
from torch import nn

import layergraft
from layergraft.config import EncoderConfig, MocoConfig, load_recipe
from layergraft.data.batch import Batch
from layergraft.data.randomness import Randomness
from layergraft.encoders.batchnorm import apply_pending, collect_pending
from layergraft.encoders.conv_stem import ConvStem
from layergraft.encoders.network import build_vit, model_args
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.graft.donors import first_encoder
from layergraft.objectives.moco import Moco
from layergraft.training.run_data import load_data
from layergraft.training.stage import prepare_stage

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
# What a recipe can ask for, and timm models whose tokens, positions or norms are arranged in other ways.
KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "no class token": {"class_token": False},
    "registers": {"reg_tokens": 4},
    "registers alone": {"reg_tokens": 4, "class_token": False},
    "1 channel": {"in_chans": 1},
    "12 channels": {"in_chans": 12},
    "large image": {"img_size": 64},
    "patch 4": {"patch_size": 4},
    "layer scale": {"init_values": 0.1},
    "many heads": {"num_heads": 8},
    "positions of patches alone": {"name": "vit_small_patch14_reg4_dinov2"},
    "norm before the blocks": {"name": "vit_base_patch32_clip_224"},
    "attention pooling": {"name": "vit_base_patch16_siglip_224"},
    "norm after pooling": {"name": "vit_base_patch16_224_miil"},
    "gated MLP": {"name": "vit_giant_patch14_dinov2"},
    "deit 3": {"name": "deit3_small_patch16_224"},
    "RMSNorm": {"name": "aimv2_large_patch14_224"},
    "RMSNorm, attention beside the MLP": {"name": "vit_base_patch16_xp_224"},
    "norms of two kinds": {"name": "vit_dpwee_patch16_reg1_gap_256"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_backbones_equal_timm(kind: str) -> None:
    config = EncoderConfig(**({"name": "vit_small_patch16_224", "positions": "random"} | SMALL | KINDS[kind]))  # type: ignore[arg-type]
    encoder = create_encoder(config, 0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():  # fresh biases and tokens are near zero and would hide a mistake
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    pooled = {"global_pool": encoder.vit.global_pool, "fc_norm": not isinstance(encoder.vit.fc_norm, nn.Identity)}
    theirs = timm.create_model(config.name, num_classes=0, **(model_args(config) | pooled)).eval()
    theirs.load_state_dict(encoder.vit.state_dict())
    x = torch.randn(3, config.in_chans, config.img_size, config.img_size, generator=generator)
    keep = torch.stack([torch.randperm(encoder.num_patches, generator=generator)[:5] for _ in x])
    with torch.no_grad():
        assert_close(encoder(x), theirs(x))
        tokens, prefix = encoder.tokens(x), encoder.prefix_tokens
        chosen = tokens[:, prefix:].gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))
        assert_close(encoder.tokens(x, keep), torch.cat([tokens[:, :prefix], chosen], dim=1))
    rows = [id(parameter) for row in encoder.layers().values() for parameter in row]
    assert sorted(rows) == sorted(id(parameter) for parameter in encoder.parameters()), "a parameter has no row"


@pytest.mark.parametrize("heads", [6, 12])
def test_small_with_6_and_12_heads(heads: int) -> None:
    config = EncoderConfig(name="vit_small_patch16_224", img_size=32, depth=1, num_heads=heads)
    encoder = create_encoder(config, 0).eval()
    assert encoder.embed_dim == 384
    assert encoder.vit.blocks[0].attn.num_heads == heads


@pytest.mark.parametrize("name", ["deit_small_distilled_patch16_224", "vit_tiny_r_s16_p8_224", "resnet18", "vit_smal"])
def test_other_networks_are_refused(name: str) -> None:
    with pytest.raises(UserError):
        build_vit(name, {})


@pytest.mark.parametrize("argument", ["num_heads", "patch_size"])
def test_a_size_of_zero_is_refused(argument: str) -> None:
    with pytest.raises(UserError, match=f"'{argument}': 0"):
        build_vit("vit_tiny_patch16_224", {"depth": 1, argument: 0})


STEM = EncoderConfig(name="vit_tiny_patch16_224", stem="conv", img_size=32, embed_dim=32, depth=2, num_heads=2)


def torch_stem(embed_dim: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    widths = [3, embed_dim // 8, embed_dim // 4, embed_dim // 2, embed_dim]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, 1))


def test_conv_stem_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = ConvStem(32, 16, 3, 32).train(), torch_stem(32).train()
    theirs.load_state_dict(ours.proj.state_dict())
    x = torch.randn(4, 3, 32, 32)
    assert_close(ours(x), theirs(x).flatten(2).transpose(1, 2))
    untouched = [value.clone() for value in ours.buffers()]
    assert not any(torch.equal(a, b) for a, b in zip(theirs.buffers(), untouched, strict=True)), "torch moved on"
    apply_pending(ours, collect_pending(ours))
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert_close(a.float(), b.float())
    assert_close(ours.eval()(x), theirs.eval()(x).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("name", "heads", "width"), [("vit_small_patch16_224", 6, 384), ("vit_base_patch16_224", 12, 768)]
)
def test_conv_stem_small_and_base_have_one_block_fewer(name: str, heads: int, width: int) -> None:
    with torch.device("meta"):
        vit = build_vit(name, model_args(EncoderConfig(name=name, stem="conv")))
    assert (len(vit.blocks), vit.blocks[0].attn.num_heads, vit.embed_dim) == (11, heads, width)


def test_conv_stem_takes_views_one_by_one() -> None:
    encoder = create_encoder(STEM, 0).train()
    assert not encoder.per_sample
    objective = Moco(MocoConfig(projector=(32, 8), predictor=(8,)), encoder)
    objective.begin_stage(encoder)
    first, second = torch.randn(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    random = Randomness(seed=0, scope="test")
    batch = Batch(
        keys=torch.arange(6).numpy(), epoch=0, views={"first": first, "second": second}, labels=None, random=random
    )
    features = objective.encode(encoder, batch)
    assert_close(features["first"], encoder(first))
    assert_close(features["second_momentum"], encoder(second))


def _process(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(stem_step(rank), f"{out}.{rank}")
    dist.destroy_process_group()


def stem_step(rank: int | None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    stem, x, weight = ConvStem(32, 16, 3, 16).train(), torch.randn(8, 3, 32, 32), torch.randn(8, 4, 16)
    part = slice(0, 8) if rank is None else slice(4 * rank, 4 * rank + 4)
    out = stem(x[part])
    (out * weight[part]).sum().backward()
    gradients = {name: p.grad for name, p in stem.named_parameters() if p.grad is not None}
    return {"out": out.detach(), **gradients, **collect_pending(stem)}


def test_conv_stem_over_two_processes(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_process, args=(port, str(tmp_path / "part")), nprocs=2)
    parts, whole = [torch.load(tmp_path / f"part.{rank}") for rank in range(2)], stem_step(None)
    assert_close(torch.cat([part["out"] for part in parts]), whole["out"])
    for name in whole.keys() - {"out"}:
        both = parts[0][name] if "running" in name or "tracked" in name else parts[0][name] + parts[1][name]
        assert_close(both.float(), whole[name].float())


def test_conv_stem_trains_and_comes_back(tmp_path: Path) -> None:
    stem = {"encoder.stem": "conv", "encoder.img_size": 32, "encoder.patch_size": 16, "data.workers": 0}
    cached = TINY | stem | {"engine.micro_batch": 8}
    with pytest.raises(UserError, match="micro_batch needs an encoder whose samples do not see each other"):
        layergraft.train(recipe="fashion_paper", out=tmp_path / "cached", overrides=cached)
    run = layergraft.train(recipe="fashion_paper", out=tmp_path / "run", overrides=TINY | stem)
    encoder = layergraft.load_encoder(run.encoder)
    assert isinstance(encoder, Encoder)
    assert int(encoder.vit.patch_embed.proj[1].num_batches_tracked) > 0
    # The second stage freezes the stem: its statistics stay, in the momentum encoder, too.
    before = layergraft.load_encoder(run.out / "stages" / "0-mae").vit.patch_embed.state_dict()
    for role in ("online", "momentum"):
        after = layergraft.load_encoder(f"{run.out}?encoder={role}").vit.patch_embed.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
    assert "layergraft.load_encoder" in (run.encoder / "MODEL_CARD.md").read_text()
    with pytest.raises(TypeError, match="stem"):
        timm.create_model(f"local-dir:{run.encoder}", pretrained=True)


def test_a_stem_that_is_frozen_before_it_has_seen_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"encoder.stem": "conv", "encoder.img_size": 32, "encoder.patch_size": 16, "data.workers": 0}
    changes["stages.mae.plan.freeze"] = ["patch_embed", "positions"]
    recipe = load_recipe("fashion_paper", TINY | changes)
    data = load_data(recipe)
    stage = prepare_stage(recipe, "mae", tmp_path, first_encoder(recipe, data.mean, data.std), data)
    assert not stage.encoder.train().vit.patch_embed.training
    assert "Stage mae freezes a convolutional stem whose BatchNorm has seen no image" in capsys.readouterr().err


def test_twelve_channels_train(tmp_path: Path) -> None:
    """TIFF files of 12 channels, through both stages, the demo's analyses, the report and back."""
    tifffile = pytest.importorskip("tifffile")
    random = np.random.default_rng(0)
    for index in range(24):
        tifffile.imwrite(tmp_path / f"{index}.tif", random.integers(0, 256, (40, 40, 12), dtype=np.uint8))
    changes = {"encoder.in_chans": 12, "data.source": str(tmp_path), "data.holdout": 4, "data.workers": 0}
    changes |= {f"stages.{name}.batch_size": 8 for name in ("mae", "graft")}
    changes["analyze"] = list(load_recipe("fashion_paper").analyze)
    run = layergraft.train(recipe="fashion_paper", out=tmp_path.parent / "run", overrides=TINY | changes)
    encoder = layergraft.load_encoder(run.encoder)
    assert encoder.in_chans == len(encoder.mean) == 12
    assert run.report.is_file()
