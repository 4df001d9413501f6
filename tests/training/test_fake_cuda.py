"""Every recipe on a CUDA device that is not there, so that a tensor left on the CPU is found without a GPU.

Torch's fake tensors have a device, a shape and a type but no content, and an operation that mixes devices raises as it
does on a GPU. Forward passes work on them; backward passes want the device's own thread.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only

from layergraft.config import load_recipe
from layergraft.config.loading import recipe_names
from layergraft.config.recipe import EvaluateConfig, Recipe
from layergraft.data.batch import Batch
from layergraft.encoders.batchnorm import collect_pending
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.evaluation.frozen import evaluate_encoders
from layergraft.evaluation.task import Task
from layergraft.objectives.moco import Moco
from layergraft.training.launch import Process
from layergraft.training.run_data import load_data
from layergraft.training.stage import StageRun, prepare_stage
from layergraft.training.trainer import Outcome, Trainer

CUDA = torch.device("cuda", 0)
SMALL = {"data.source": "builtin:fashion-canvas?fraction=0.01", "data.holdout": 24, "monitor.images": 16}
NAMES = [name for name in recipe_names() if name.startswith("fashion_")]
LARGE = [name for name in recipe_names() if name not in NAMES]
# Their depths and heads stay: plans and objectives name blocks.
SHRUNK = SMALL | {"encoder.img_size": 48, "encoder.in_chans": 1, "encoder.embed_dim": 48, "encoder.num_heads": 3}
PRECISIONS = ["bf16-mixed", pytest.param("32-true", marks=pytest.mark.slow)]
VARIANTS: dict[str, dict[str, object]] = {
    "gate": {"stages.graft.objective.gate": {"experts": 2}},
    "whole views for the teacher": {"stages.graft.objective.full_view_teacher": True},
    "convolutional stem": {
        **{"encoder.stem": "conv", "encoder.img_size": 32, "encoder.patch_size": 16},
        "stages.graft.objective.keep_ratio": 1.0,
    },
    "registers, no class token": {"encoder.class_token": False, "encoder.reg_tokens": 2},
    "anchor and average": {"stages.graft.plan.anchor": {"blocks": 2}, "stages.graft.ema": 0.99},
}


class FakeCuda(FakeTensorMode):
    """Fake tensors whose single numbers can be read: 1 for a float, else 0. What is chosen by them does not matter."""

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 1.0 if args[0].is_floating_point() else 0
        if func is torch.ops.aten.bincount.default:  # as many as the classes that are asked for
            return args[0].new_zeros(args[2] if len(args) > 2 else kwargs["minlength"])
        args = tree_map_only(torch.Tensor, self.without_content, args)
        return super().dispatch(func, types, args, kwargs)

    def without_content(self, tensor: Tensor) -> FakeTensor:
        """The same without the content of small or real tensors, which would be moved to a real device."""
        fake = tensor if isinstance(tensor, FakeTensor) else self.from_tensor(tensor)
        fake.constant = None
        return fake


def to_numpy(tensor: FakeTensor) -> np.ndarray:
    """Zeros; like a real tensor's, only from the CPU."""
    assert tensor.device.type == "cpu", "numpy() of a tensor on the GPU"
    return np.zeros(tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


def convert(module: nn.Module, function: Callable[[Tensor], Tensor]) -> nn.Module:
    """`nn.Module._apply` for fake tensors, which cannot take another device's data in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                value = function(parameter.detach())
                part._parameters[name] = nn.Parameter(value, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = function(buffer)
    return module


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Within it everything happens on fake tensors."""
    monkeypatch.setattr(nn.Module, "_apply", convert)
    monkeypatch.setattr(FakeTensor, "numpy", to_numpy, raising=False)
    monkeypatch.setenv("LAYERGRAFT_CACHE", "off")
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    return FakeCuda(allow_non_fake_inputs=True)


def prepare(recipe: Recipe, name: str, where: Path) -> tuple[StageRun, Batch]:
    """A stage for a GPU, and its first batch of eight; on real tensors."""
    stage = msgspec.structs.replace(recipe.stages[name], batch_size=8)
    recipe = msgspec.structs.replace(recipe, stages={name: stage}, start=None)
    data = load_data(recipe)
    run = prepare_stage(recipe, name, where, create_encoder(recipe.encoder, 0), data, Process(device=CUDA))
    run.loader.pin = False  # which takes a driver
    return run, run.loader.batch(0)


def on_device(mode: FakeCuda, run: StageRun) -> Trainer:
    """A trainer whose modules lie on the fake device."""
    with FakeCopyMode(mode):
        encoder, objective, ema = copy.deepcopy((run.encoder, run.objective, run.ema))
    stage = replace(run, encoder=encoder, objective=objective, ema=ema)
    return Trainer(Process(device=CUDA), stage)


def step(trainer: Trainer, raw: Batch) -> None:
    """A step but for its gradient, and what is watched after it."""
    trainer.begin()
    batch = raw.prepared(trainer.to_device, trainer.normalize)
    train_step = trainer.gradients.step
    for part in (batch, batch.part(0, 4)):
        features = train_step(train_step.encode, part)
        assert {value.device for value in features.values()} == {CUDA}
    losses, pending = train_step(train_step.whole, batch, trainer.progress)
    assert {(value.device, value.dtype) for value in losses.values()} == {(CUDA, torch.float32)}
    penalty = trainer.anchor.pull()
    buffers = collect_pending(trainer.encoder)
    norm = losses["loss"] if trainer.stage.config.optimizer.clip_grad_norm else None
    outcome = Outcome(
        losses=losses, pending=pending, buffers=buffers, anchor=penalty, size=losses["loss"], gradient_norm=norm
    )
    trainer.accept(outcome)
    assert trainer.stage.monitor is not None
    assert trainer.stage.monitor.evaluate(trainer.encoder, trainer.objective)


def run_stages(recipe: Recipe, where: Path, mode: FakeCuda) -> None:
    """A step of every stage."""
    assert recipe.stages
    for name in recipe.stages:
        run, batch = prepare(recipe, name, where)
        with mode:
            step(on_device(mode, run), batch)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_recipe(name: str, precision: str, mode: FakeCuda, tmp_path: Path) -> None:
    run_stages(load_recipe(name, SMALL | {"engine.precision": precision}), tmp_path, mode)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", pytest.param("32-true", marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", LARGE)
def test_large_recipe(name: str, precision: str, mode: FakeCuda, tmp_path: Path) -> None:
    run_stages(load_recipe(name, SHRUNK | {"engine.precision": precision, "start": None}), tmp_path, mode)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant(variant: str, mode: FakeCuda, tmp_path: Path) -> None:
    changes = SMALL | VARIANTS[variant] | {"engine.precision": "bf16-mixed"}
    run_stages(load_recipe("fashion_paper", changes), tmp_path, mode)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("protocol", ["linear", "finetune", "segment", "upernet"])
def test_trained_protocol(protocol: str, precision: str, mode: FakeCuda, tmp_path: Path) -> None:
    scenes = protocol in ("segment", "upernet")
    source = f"builtin:fashion-{'scenes' if scenes else 'canvas'}?fraction=0.01"
    asked = {"evaluate.protocols": [protocol]} if not scenes else {"evaluate.protocols": ["segment"]}
    asked["evaluate.variant"] = ["linear", "upernet"] if scenes else []
    recipe = load_recipe("fashion_paper", SMALL | {"engine.precision": precision, "data.source": source} | asked)
    stages = {protocol: getattr(recipe.evaluate, protocol)}
    run_stages(msgspec.structs.replace(recipe, stages=stages), tmp_path, mode)


def test_frozen_protocols(mode: FakeCuda) -> None:
    """All but `logistic`, whose solver is led by its numbers."""
    recipe = load_recipe("fashion_paper", SMALL | {"data.holdout": 60})
    data = load_data(recipe)
    encoder = create_encoder(recipe.encoder, 0)
    config = EvaluateConfig(
        protocols=("knn", "ridge", "prototype"),
        variant=("cv", "holdout"),
        pooling=("cls+mean", "last4", "auto"),
        shots=(2,),
        splits=1,
        k=(5, 10),
    )
    with FakeCopyMode(mode):
        twin: Encoder = copy.deepcopy(encoder)
    task = Task(train=data.train, test=data.holdout, test_name="holdout", seed=0, holdout=data.holdout)
    with mode:
        rows = evaluate_encoders(task, config, {"encoder": twin.to(CUDA)})
    assert {row.protocol for row in rows} == set(config.protocols)


def test_a_tensor_left_on_the_cpu_is_found(mode: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise these tests would say nothing."""
    kept_patches = Moco.kept_patches

    def planted(self: Moco, encoder: Encoder, batch: Batch, names: Any) -> Tensor | None:
        kept = kept_patches(self, encoder, batch, names)
        return None if kept is None else kept.cpu()

    monkeypatch.setattr(Moco, "kept_patches", planted)
    with pytest.raises(RuntimeError, match=r"(?s)cuda.*cpu|cpu.*cuda"):
        run_stages(load_recipe("fashion_paper", SMALL), tmp_path, mode)
