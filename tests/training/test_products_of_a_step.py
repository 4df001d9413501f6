"""`engine.products` in steps of the training loop: as exact as torch's products, and the same bits each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import layergraft
from layergraft.commands.bench.step import prepare
from layergraft.config.encoder import EncoderConfig
from layergraft.config.loading import load_recipe
from layergraft.config.objectives import DecoderConfig, MaeConfig, MocoConfig
from layergraft.config.recipe import EngineConfig
from layergraft.encoders.products import has_onednn
from layergraft.errors import UserError

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this torch has no oneDNN")
TINY = EncoderConfig(name="vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2)
MAE = MaeConfig(decoder=DecoderConfig(embed_dim=16, depth=1, num_heads=2))
MOCO = MocoConfig(projector=(64, 64, 16), predictor=(64, 16))


def steps(config: MaeConfig | MocoConfig, frozen: int, engine: EngineConfig) -> list[Tensor]:
    """Losses of three steps, the first one's gradients and the last one's weights."""
    trainer, batch = prepare(config, TINY, 8, frozen, engine)
    found: list[Tensor] = []
    for _ in range(3):
        outcome = trainer.compute(batch)
        found.append(outcome.losses["loss"].double())
        if len(found) == 1:
            found += [p.grad.double().clone() for p in trainer.parameters if p.grad is not None]
        trainer.accept(outcome)
    return found + [p.detach().double().clone() for p in trainer.parameters]


@pytest.mark.parametrize("config", [MAE, MOCO], ids=["mae", "moco"])
@pytest.mark.parametrize("frozen", [0, 1])
def test_as_near_to_float64_as_torchs(config: MaeConfig | MocoConfig, frozen: int) -> None:
    exact = steps(config, frozen, EngineConfig(precision="64-true"))
    by_torch = steps(config, frozen, EngineConfig())
    by_onednn = steps(config, frozen, EngineConfig(products="onednn"))

    def error(found: list[Tensor]) -> Tensor:
        return torch.stack([(f - e).norm() / (e.norm() + 1e-6) for f, e in zip(found, exact, strict=True)])

    assert error(by_onednn).max() < 5 * error(by_torch).max()
    assert error(by_onednn).median() < 3 * error(by_torch).median()


def test_same_seed_same_bits() -> None:
    for engine in (EngineConfig(products="onednn"), EngineConfig(products="onednn", activation_checkpointing=True)):
        first, second = steps(MOCO, 0, engine), steps(MOCO, 0, engine)
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("engine", [{"micro_batch": 4}, {"activation_checkpointing": True}])
def test_parts_and_recomputed_blocks_have_the_whole_gradient(engine: dict[str, object]) -> None:
    whole = steps(MOCO, 0, EngineConfig(products="onednn"))
    parts = steps(MOCO, 0, EngineConfig(products="onednn", **engine))
    for one, other in zip(whole[:20], parts[:20], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_not_for_compiled_blocks() -> None:
    with pytest.raises(UserError, match="compiled blocks"):
        load_recipe("fashion_paper", {"engine.products": "onednn", "engine.compile": True})
    assert load_recipe("fashion_paper").engine.products == "torch", "its bits are those of the paper's figures here"


def test_a_run_that_is_refused_leaves_its_directory_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever follows the hint gives the same --out."""
    monkeypatch.setattr("layergraft.encoders.products.has_onednn", lambda: False)
    data, out = "builtin:fashion-canvas?fraction=0.01", tmp_path / "run"
    keys = {"engine.products": "onednn", "encoder.depth": 1, "evaluate": None}
    with pytest.raises(UserError, match="this torch has none"):
        layergraft.train(recipe="fashion_paper", data=data, out=out, overrides=keys)
    assert not (out / "recipe.yaml").exists()
