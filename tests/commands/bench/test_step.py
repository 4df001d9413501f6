"""Our steps against the straightforward ones: the same losses and gradients, and the operations counted by hand."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import assert_close
from torch import Tensor, nn

from layergraft.commands.bench import reference
from layergraft.commands.bench.step import prepare, reference_gflop, reference_inputs, reference_model
from layergraft.commands.cli import main
from layergraft.config import DecoderConfig, EncoderConfig, MaeConfig, MocoConfig
from layergraft.data.batch import Batch
from layergraft.encoders.momentum import momentum_update
from layergraft.errors import UserError
from layergraft.training.cost import step_flops
from layergraft.training.trainer import Trainer

SMALL = EncoderConfig(name="vit_small_patch16_224", img_size=64, patch_size=16, embed_dim=48, depth=3, num_heads=4)
MAE = MaeConfig(decoder=DecoderConfig(embed_dim=32, depth=2, num_heads=4))
MOCO = MocoConfig(projector=(64, 64, 16), predictor=(64, 16))


def test_the_reference_is_frozen() -> None:
    """A ratio means the same from one version to the next only if what it compares with stays as it is."""
    content = Path(reference.__file__).read_bytes()
    assert hashlib.sha256(content).hexdigest() == "d0c949bccc7acc164b47ed699257ce591639b3b847a395e92a9d17cc7e2b599e"


def prepared(config: MaeConfig | MocoConfig, frozen: int = 0) -> tuple[Trainer, Batch]:
    """Weights moved away from their start, where biases are zero and both encoders equal; images of noise.

    A constant patch, as the built-in images have them, would be normalised to its rounding errors.
    """
    trainer, batch = prepare(config, SMALL, 32, frozen)
    generator = torch.Generator().manual_seed(1)
    views = {name: torch.randint(256, v.shape, generator=generator, dtype=v.dtype) for name, v in batch.views.items()}
    moved = [*trainer.encoder.parameters(), *trainer.objective.heads.parameters()]
    trained = [parameter for parameter in moved if parameter.requires_grad]
    if "encoder" in trainer.objective.momentum_copies:
        pairs = zip(
            trainer.objective.momentum_copies["encoder"].parameters(), trainer.encoder.parameters(), strict=True
        )
        trained += [slow for slow, fast in pairs if fast.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return trainer, replace(batch, views=views)


def named_pairs(trainer: Trainer, model: nn.Module) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Name in the reference -> (ours, theirs)."""
    parts = {"encoder": trainer.encoder.vit} | dict(trainer.objective.heads.items())
    ours = {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}
    theirs = {name: p for name, p in model.named_parameters() if not name.startswith("slow_")}
    assert ours.keys() == theirs.keys()
    return {name: (ours[name], theirs[name]) for name in ours}


def comparable(name: str, gradient: Tensor) -> Tensor:
    """Without what is zero in truth, where rounding is all there is: the gradient of a key bias."""
    width = len(gradient) // 3
    return torch.cat([gradient[:width], gradient[2 * width :]]) if name.endswith("qkv.bias") else gradient


@pytest.mark.parametrize("frozen", [0, 2])
@pytest.mark.parametrize("config", [MAE, MOCO], ids=["mae", "moco"])
def test_losses_and_gradients_agree(config: MaeConfig | MocoConfig, frozen: int) -> None:
    trainer, batch = prepared(config, frozen)
    model = reference_model(trainer.stage)
    loss = model(*reference_inputs(trainer, batch))
    loss.backward()
    outcome = trainer.compute(batch)
    assert_close(outcome.losses["loss"], loss.detach())
    compared = 0
    for name, (ours, theirs) in named_pairs(trainer, model).items():
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is None or theirs.grad is None:
            continue
        compared += 1
        if name == "encoder.norm.bias" and config is MOCO:  # BatchNorm removes what it adds: zero in truth
            scale = dict(model.named_parameters())["encoder.norm.weight"].grad
            assert scale is not None
            assert max(ours.grad.abs().max(), theirs.grad.abs().max()) < 1e-5 * scale.abs().max()
            continue
        assert_close(comparable(name, ours.grad), comparable(name, theirs.grad))
    assert compared > 12


def test_momentum_updates_agree() -> None:
    trainer, _ = prepared(MOCO)
    model = reference_model(trainer.stage)
    assert isinstance(model, reference.Moco)
    model.update(0.9)
    momentum_update(trainer.objective.momentum_copies["encoder"], trainer.encoder, 0.9)
    ours = dict(trainer.objective.momentum_copies["encoder"].vit.named_parameters())  # type: ignore[union-attr]
    for name, value in model.slow_encoder.named_parameters():
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-7)


def block(tokens: int, width: int) -> int:
    """Forward operations: four square products of the attention, two of the MLP, two with the tokens."""
    return 2 * tokens * width * (4 * width + 2 * 4 * width) + 2 * 2 * tokens * tokens * width


def test_operations_counted_by_hand() -> None:
    patches, kept, pixels, width, small = 16, 4, 16 * 16 * 3, 48, 32
    # Forwards, and twice as much backwards; the pixels need no gradient.
    mae = 2 * 2 * patches * pixels * width + 3 * 3 * block(1 + kept, width)
    decoded = 2 * block(1 + patches, small) + 2 * (patches - kept) * small * pixels
    mae += 3 * (2 * (1 + kept) * width * small + decoded)
    assert reference_gflop(*prepare(MAE, SMALL, 4, 0)) == pytest.approx(mae / 1e9, rel=1e-9)
    projector = 2 * (48 * 64 + 64 * 64 + 64 * 16)
    predictor = 2 * (16 * 64 + 64 * 16)
    logits = 2 * 2 * 16  # against the two keys of the batch that is counted
    a_view = 2 * 2 * patches * pixels * width + 4 * 3 * block(1 + patches, width)
    a_view += 4 * projector + 3 * predictor + 2 * logits  # keys take no gradient
    assert reference_gflop(*prepare(MOCO, SMALL, 4, 0)) == pytest.approx(2 * a_view / 1e9, rel=1e-9)


def test_operations_of_a_plan() -> None:
    """Ours embeds visible patches alone, projects the first decoder block's mask tokens once for all four images, and
    the last decoder block makes removed ones alone."""
    patches, kept, pixels, width, small = 16, 4, 16 * 16 * 3, 48, 32
    removed, seen = patches - kept, 1 + patches
    last = 2 * seen * small * 2 * small + 2 * removed * small * (2 * small + 8 * small) + 4 * removed * seen * small
    mae = 2 * 2 * kept * pixels * width + 3 * 3 * block(1 + kept, width)
    mae += 3 * (2 * (1 + kept) * width * small + block(seen, small) + last + 2 * removed * small * pixels)
    shared = 3 * 2 * (4 * seen - 4 * (1 + kept) - seen) * small * 3 * small
    stage = prepare(MAE, SMALL, 4, 0)[0].stage
    assert step_flops(stage.encoder, stage.objective, stage.config) == 4 * mae - shared


def test_bench_step(capsys: pytest.CaptureFixture[str]) -> None:
    command = "bench step --objective moco --encoder vit_tiny_patch16_224 --img-size 32 --batch-size 4"
    assert main([*command.split(), "--frozen", "0", "6", "--seconds", "0.1", "--json", "true"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    numbers = {"images_per_second", "gflop_per_image", "gemm_peak_gflops", "gemm_fraction"}
    numbers |= {"reference_images_per_second", "ratio"}
    assert found.keys() == numbers | {"cases"}
    assert all(found[name] > 0 for name in numbers)
    assert found["ratio"] == pytest.approx(found["images_per_second"] / found["reference_images_per_second"])
    rate = found["images_per_second"] * found["gflop_per_image"]
    assert found["gemm_fraction"] == pytest.approx(rate / found["gemm_peak_gflops"])
    first, second = found["cases"]
    assert (first["frozen"], first["ratio"], second["frozen"]) == (0, 1.0, 6)
    assert second["ratio"] == pytest.approx(second["images_per_second"] / first["images_per_second"])


def test_what_the_reference_has_not_is_refused() -> None:
    registers = EncoderConfig(
        name="vit_small_patch16_224", img_size=32, embed_dim=48, depth=1, num_heads=4, reg_tokens=2
    )
    with pytest.raises(UserError, match="reference"):
        reference_model(prepare(MOCO, registers, 4, 0)[0].stage)
