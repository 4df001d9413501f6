"""Snapshots of a stage: the weights of their step, also after a kill; the run's own bits stay; analyses take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from safetensors.torch import load_file

import layergraft
from layergraft.analysis.run import build_subject
from layergraft.config import load_recipe
from layergraft.config.objectives import MocoConfig
from layergraft.encoders.checkpoint import load_encoder
from layergraft.runs.layout import encoder_name, run_directory
from layergraft.training.checkpoints import read_state

SHORT: dict[str, Any] = {key: value for key, value in TINY.items() if not key.endswith(".epochs")} | {
    "stages.mae.steps": 2,
    "stages.graft.steps": 8,
    "stages.graft.warmup_steps": 2,
    "stages.mae.warmup_steps": 0,
    "data.source": "builtin:fashion-canvas?fraction=0.02",
    "engine.checkpoint_steps": 1,
    "engine.keep": 100,
    "evaluate": None,
    "analyze": [],
    "monitor.every": 0,
}
GRAFT = Path("stages/1-graft")
WEIGHTS = "encoder/model.safetensors"


def train(out: Path, **changes: Any) -> Path:
    layergraft.train(recipe="fashion_paper", out=out, overrides=SHORT | changes)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two snapshots, after steps 2 and 6 of 8."""
    return train(tmp_path_factory.mktemp("run") / "run", **{"stages.graft.snapshots": [0.25, 0.75]})


def test_a_snapshot_holds_the_weights_of_its_step(run: Path) -> None:
    assert sorted(path.name for path in (run / GRAFT / "snapshots").iterdir()) == ["0.25", "0.75"]
    assert not (run / "stages/0-mae/snapshots").exists()
    for part, step in (("0.25", 2), ("0.75", 6)):
        (file,) = (run / GRAFT / "checkpoints").glob(f"step-{step:09}-*")
        state = read_state(file)
        assert state is not None
        snapshot = run / GRAFT / "snapshots" / part
        for directory, start in (("encoder", "vit."), ("encoder_momentum", "momentum_copies.encoder.vit.")):
            kept = load_file(snapshot / directory / "model.safetensors")
            source = state["encoder" if directory == "encoder" else "objective"]
            assert kept
            assert all(bool((source[start + name] == value).all()) for name, value in kept.items())
        heads = load_file(snapshot / "heads.safetensors")
        known = {name: value for name, value in heads.items() if not name.startswith("momentum.")}
        assert known
        assert all(bool((state["objective"][f"heads.{name}"] == value).all()) for name, value in known.items())
        assert json.loads((snapshot / "encoder/layergraft.json").read_text())["step"] == step


def test_a_run_has_the_same_bits_with_and_without(run: Path, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain")
    for name in (WEIGHTS, "heads.safetensors"):
        assert (plain / GRAFT / name).read_bytes() == (run / GRAFT / name).read_bytes()


def test_a_run_that_goes_on_takes_the_same(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed while it writes the second one: neither is missing nor different in the end."""
    from layergraft.training import run as module

    out, real, written = tmp_path / "killed", module.save_weights, []

    def failing(stage: Any, directory: Path, provenance: dict[str, Any]) -> None:
        written.append(directory.name)
        if written == ["0.25", "0.75"]:
            raise RuntimeError("the plug is pulled")
        real(stage, directory, provenance)

    monkeypatch.setattr(module, "save_weights", failing)
    with pytest.raises(RuntimeError, match="plug"):
        train(out, **{"stages.graft.snapshots": [0.25, 0.75]})
    train(out, **{"stages.graft.snapshots": [0.25, 0.75]})
    assert written == ["0.25", "0.75", "0.75"]
    files = [path.relative_to(run) for path in (run / GRAFT / "snapshots").rglob("*.safetensors")]
    assert len(files) == 6
    assert all((out / file).read_bytes() == (run / file).read_bytes() for file in files)


def test_an_analysis_takes_the_heads_of_that_time(run: Path) -> None:
    snapshot = str(run / GRAFT / "snapshots/0.25")
    for encoder in (snapshot, f"{snapshot}/encoder"):
        assert run_directory(encoder) == (run, "graft")
        assert encoder_name(encoder) == "graft/0.25"
    subject = build_subject(snapshot, [], str(SHORT["data.source"]))
    part = subject.last_part(MocoConfig)
    assert part is not None
    fitted = part.load(load_encoder(snapshot)).state_dict()
    kept = load_file(Path(snapshot) / "heads.safetensors")
    assert bool((fitted["heads.projector.0.weight"] == kept["projector.0.weight"]).all())
    assert encoder_name(str(run / GRAFT)) == "graft"


@pytest.mark.parametrize("parts", [[0], [1], [1.5]])
def test_parts_lie_within_the_stage(parts: list[float]) -> None:
    from layergraft.errors import UserError

    with pytest.raises(UserError, match="snapshots"):
        load_recipe("fashion_paper", {"stages.mae.snapshots": parts})


def test_trained_protocols_take_none() -> None:
    from layergraft.errors import UserError

    changes = {"evaluate.protocols": ["linear"], "evaluate.linear.snapshots": [0.5]}
    with pytest.raises(UserError, match="takes no `snapshots`"):
        load_recipe("fashion_paper", changes)
