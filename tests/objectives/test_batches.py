"""What every objective promises of its batches: encoded in chunks, or over two processes, they give the same step."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from msgspec import structs

from layergraft.config import (
    DecoderConfig,
    EncoderConfig,
    GateConfig,
    JointConfig,
    MaeConfig,
    MocoConfig,
    NnclrConfig,
    ObjectiveConfig,
    SimclrConfig,
    VicregConfig,
)
from layergraft.data.batch import Batch
from layergraft.data.randomness import Randomness
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.graft.apply import stage_rows
from layergraft.objectives import Objective, Progress, create_objective

ENCODER = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=16, in_chans=1, patch_size=4, embed_dim=32, depth=3, num_heads=2
)
MAE = MaeConfig(decoder=DecoderConfig(embed_dim=16, depth=1, num_heads=2))
MOCO = MocoConfig(projector=(64, 64, 16), predictor=(64, 16))
NNCLR = NnclrConfig(blocks=(1, 2), queue=24, topk=3, projector=(64, 16), predictor=(32, 16))
OBJECTIVES: dict[str, ObjectiveConfig] = {
    "mae": MAE,
    "moco": MOCO,
    "moco, half the patches": MocoConfig(projector=(64, 16), predictor=(16,), keep_ratio=0.5),
    "moco, gated, masked student": structs.replace(
        MOCO, keep_ratio=0.5, full_view_teacher=True, gate=GateConfig(experts=3)
    ),
    "moco, local views": structs.replace(MOCO, keep_ratio=0.5, local_views=2, local_size=8),
    "simclr": SimclrConfig(projector=(64, 64, 16)),
    "simclr, half the patches": SimclrConfig(projector=(64, 64, 16), keep_ratio=0.5),
    "vicreg": VicregConfig(expander=(64, 64, 32)),
    "vicreg, half the patches": VicregConfig(expander=(64, 64, 32), keep_ratio=0.5),
    "nnclr": NnclrConfig(
        blocks=(1, 2), queue=24, topk=3, projector=(64, 16), predictor=(32, 16), local_views=2, local_size=8
    ),
    "nnclr, all swapped": structs.replace(NNCLR, blocks=None, swap="all"),
    "joint": JointConfig(parts={"mae": MAE, "moco": MOCO}, weights={"moco": 0.5}),
}
WHOLE = slice(0, 16)
START = Progress(step=1, steps=100)


@dataclass
class Step:
    """What one step computes."""

    loss: torch.Tensor
    gradients: dict[str, torch.Tensor]
    pending: dict[str, torch.Tensor]


def build(config: ObjectiveConfig) -> tuple[Encoder, Objective]:
    encoder = create_encoder(ENCODER, 0).train()
    torch.manual_seed(1)
    objective = create_objective(config, encoder).train()
    for name, buffer in objective.named_buffers():  # a memory half full, of images in the batch and others
        if name.endswith("queue.features"):
            buffer[:12] = torch.nn.functional.normalize(torch.randn(12, buffer.shape[1]), dim=1)
        elif name.endswith("queue.ids"):
            buffer[:12] = torch.arange(95, 107)
        elif name.endswith("queue.place"):
            buffer.fill_(12)
    objective.begin_stage(encoder)
    for row in ("patch_embed", "positions"):
        for parameter in encoder.layers()[row]:
            parameter.requires_grad_(False)
    return encoder, objective


def batch(config: ObjectiveConfig, part: slice) -> Batch:
    generator = torch.Generator().manual_seed(2)
    views = {
        name: torch.randn(16, 1, view.size or 16, view.size or 16, generator=generator)[part]
        for name, view in config.views.items()
    }
    random = Randomness(seed=0, scope="test")
    return Batch(keys=np.arange(100, 116)[part], epoch=0, views=views, labels=None, random=random)


def gradients(encoder: Encoder, objective: Objective) -> dict[str, torch.Tensor]:
    """Row -> gradient of all its parameters."""
    return {
        name: torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
        for name, parameters in stage_rows(encoder, objective).items()
        if parameters
    }


@pytest.mark.parametrize("pooling", ["token", "mean"])
@pytest.mark.parametrize("config", OBJECTIVES.values(), ids=list(OBJECTIVES))
def test_what_is_still_has_no_gradient(config: ObjectiveConfig, pooling: str) -> None:
    """In float64, where rounding is far below any gradient; and all else that is trained has one."""
    arguments = {"class_token": False} if pooling == "mean" else {}
    encoder = create_encoder(structs.replace(ENCODER, **arguments), 0).double().train()
    objective = create_objective(config, encoder).double().train()
    objective.begin_stage(encoder)
    images = batch(config, WHOLE)
    objective.losses(objective.encode(encoder, images), START)[0]["loss"].backward()
    still = {id(p) for p in objective.zero_gradient_parameters(encoder)}
    assert len(still) == (0 if isinstance(config, (MaeConfig, JointConfig)) else 1)
    largest = max(float(p.grad.abs().max()) for p in encoder.parameters() if p.grad is not None)
    for name, parameter in encoder.named_parameters():
        if parameter.grad is not None and "qkv.bias" not in name:  # whose part of the keys is still, too
            assert (float(parameter.grad.abs().max()) < 1e-12 * largest) == (id(parameter) in still), name


def whole_step(config: ObjectiveConfig, part: slice = WHOLE) -> Step:
    encoder, objective = build(config)
    objective.before_step(encoder, START)
    losses, pending = objective.losses(objective.encode(encoder, batch(config, part)), START)
    losses["loss"].backward()
    return Step(losses["loss"].detach(), gradients(encoder, objective), pending)


def chunked_step(config: ObjectiveConfig) -> Step:
    """The features of four chunks, cut off their graphs, form the batch; their gradients are carried back by chunk."""
    encoder, objective = build(config)
    chunks = [batch(config, slice(start, start + 4)) for start in range(0, 16, 4)]
    objective.before_step(encoder, START)
    encoded = [objective.encode(encoder, chunk) for chunk in chunks]
    features = {
        name: torch.cat([part[name] for part in encoded]).detach().requires_grad_(encoded[0][name].requires_grad)
        for name in encoded[0]
    }
    losses, pending = objective.losses(features, START)
    losses["loss"].backward()
    for index, chunk in enumerate(chunks):
        for name, value in objective.encode(encoder, chunk).items():
            if value.requires_grad and features[name].grad is not None:
                value.backward(features[name].grad[4 * index : 4 * index + 4], retain_graph=True)
    return Step(losses["loss"].detach(), gradients(encoder, objective), pending)


def assert_same_step(ours: Step, expected: Step) -> None:
    torch.testing.assert_close(ours.loss, expected.loss, rtol=1e-5, atol=0)
    largest = max(float(gradient.abs().max()) for gradient in expected.gradients.values())
    assert largest > 0
    for name, gradient in expected.gradients.items():
        # 1e-5 of the row's largest entry; rows whose gradient is zero in truth are held to the largest of all.
        scale = max(float(gradient.abs().max()), 1e-2 * largest)
        assert float((ours.gradients[name] - gradient).abs().max()) <= 1e-5 * scale, name
    assert ours.pending.keys() == expected.pending.keys()
    for name, value in expected.pending.items():
        torch.testing.assert_close(ours.pending[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_chunks_equal_the_whole_batch(name: str) -> None:
    """What makes accumulation exact: BatchNorm, queues and negatives see the whole batch."""
    assert_same_step(chunked_step(OBJECTIVES[name]), whole_step(OBJECTIVES[name]))


def _process(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    steps = {}
    for name, config in OBJECTIVES.items():
        step = whole_step(config, slice(8 * rank, 8 * rank + 8))
        for value in (step.loss, *step.gradients.values()):  # as data parallelism does: the mean over processes
            dist.all_reduce(value)
            value /= 2
        steps[name] = step
    if rank == 0:
        torch.save(steps, out)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Step]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out: Path = tmp_path_factory.mktemp("two") / "steps.pt"
    mp.spawn(_process, args=(port, str(out)), nprocs=2)
    steps: dict[str, Step] = torch.load(out, weights_only=False)
    return steps


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_equal_one(two_processes: dict[str, Step], name: str) -> None:
    """Two CPU processes x batch 8 = one process x batch 16: everything is gathered, BatchNorm is synchronised."""
    assert_same_step(two_processes[name], whole_step(OBJECTIVES[name]))
