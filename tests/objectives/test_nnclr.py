"""The queue against scikit-learn, the loss against sums written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from sklearn.neighbors import NearestNeighbors
from test_batches import START, batch, build

from layergraft.config import EncoderConfig, NnclrConfig, load_recipe
from layergraft.data.batch import Batch
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError
from layergraft.graft.apply import stage_plan
from layergraft.objectives import Objective, create_objective
from layergraft.objectives.losses import info_nce_loss
from layergraft.objectives.nnclr import Nnclr
from layergraft.objectives.queue import Queue

WHOLE = slice(0, 16)
CONFIG = NnclrConfig(blocks=(0, 2), queue=24, topk=3, projector=(64, 16), predictor=(32, 16))


def normal(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def unit(x: torch.Tensor) -> np.ndarray:
    values = x.detach().double().numpy()
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))


def cross_entropy(queries: np.ndarray, keys: np.ndarray, positives: np.ndarray, temperature: float) -> float:
    total = 0.0
    for row, query in enumerate(queries):
        logits = [query @ (positives[row] if column == row else key) / temperature for column, key in enumerate(keys)]
        total += float(np.log(np.sum(np.exp(logits))) - logits[row])
    return total / len(queries)


@pytest.mark.parametrize("topk", [1, 5])
def test_neighbours_are_those_of_scikit_learn(topk: int) -> None:
    queue, x = Queue(40, 8), normal(20, 8, 1)
    memory = normal(40, 8, 2)
    queue.push(memory, torch.arange(40))
    index = NearestNeighbors(n_neighbors=topk, metric="cosine").fit(memory.numpy()).kneighbors(x.numpy())[1]
    draws = torch.rand(20, generator=torch.Generator().manual_seed(3))
    expected = unit(memory)[index[np.arange(20), (draws.numpy() * topk).astype(int)]]
    np.testing.assert_allclose(queue.neighbours(x, draws, topk).numpy(), expected, atol=1e-6)


def test_an_image_is_not_its_own_neighbour() -> None:
    queue, x = Queue(4, 8), normal(3, 8, 1)
    queue.push(x, torch.tensor([7, 8, 9]))
    draws = torch.zeros(3)
    np.testing.assert_allclose(queue.neighbours(x, draws, 1).numpy(), unit(x), atol=1e-6)
    found = queue.neighbours(x, draws, 1, torch.tensor([7, 8, 9])).numpy()
    similarity = unit(x) @ unit(x).T
    np.fill_diagonal(similarity, -np.inf)
    np.testing.assert_allclose(found, unit(x)[similarity.argmax(1)], atol=1e-6)


def test_memory_replaces_the_oldest_and_starts_empty() -> None:
    queue, x = Queue(4, 8), normal(6, 8, 1)
    np.testing.assert_allclose(queue.neighbours(x, torch.rand(6), 3).numpy(), unit(x), atol=1e-6)
    queue.push(x[:3], torch.arange(3))
    queue.push(x[3:], torch.arange(3, 6))
    assert queue.ids.tolist() == [4, 5, 2, 3]
    np.testing.assert_allclose(queue.features.numpy(), unit(x[[4, 5, 2, 3]]), atol=1e-6)
    assert int(queue.place) == 2
    queue.push(x, torch.arange(10, 16))  # more than it holds
    assert sorted(queue.ids.tolist()) == [12, 13, 14, 15]


@pytest.mark.parametrize("swapped", [False, True])
def test_loss_by_hand(swapped: bool) -> None:
    queries, keys, positives = normal(6, 8, 1), normal(6, 8, 2), normal(6, 8, 3) if swapped else None
    ours = info_nce_loss(queries, keys, 0.3, positives=positives)
    expected = cross_entropy(unit(queries), unit(keys), unit(keys if positives is None else positives), 0.3)
    assert float(ours) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("swap", ["positive", "all"])
def test_one_head_by_hand(swap: str) -> None:
    """Both directions of the two views; neighbours by scikit-learn, negatives swapped or not."""
    config = NnclrConfig(queue=12, topk=1, swap=swap, projector=(64, 16), predictor=(32, 16))  # type: ignore[arg-type]
    encoder, objective = build(config)
    assert isinstance(objective, Nnclr)
    features = objective.encode(encoder, batch(config, WHOLE))
    losses, _ = objective.losses(features, START)
    head = objective.head(2)
    memory, ids = head.queue.features.numpy(), head.queue.ids.numpy()
    index = NearestNeighbors(n_neighbors=len(ids), metric="cosine").fit(memory)
    total = 0.0
    for target, other in (("first", "second"), ("second", "first")):
        key = head.projector(features[f"{target}.2"])
        prediction = head.predictor(head.projector(features[f"{other}.2"]))
        order = index.kneighbors(unit(key))[1]
        own = features["ids"].numpy()
        nearest = np.stack([memory[next(j for j in row if ids[j] != own[i])] for i, row in enumerate(order)])
        total += cross_entropy(unit(prediction), nearest if swap == "all" else unit(key), nearest, 0.2) / 2
    assert float(losses["loss"].detach()) == pytest.approx(total, rel=1e-5)


def test_gradient_goes_through_predictions_alone() -> None:
    encoder, objective = build(CONFIG)
    assert isinstance(objective, Nnclr)
    features = objective.encode(encoder, batch(CONFIG, WHOLE))
    inputs = {name: value.detach().requires_grad_() for name, value in features.items() if value.requires_grad}
    objective.head_loss(2, features | inputs, features["draws"][:, :2])[0].backward()
    assert inputs["first.2"].grad is not None
    assert all(parameter.grad is not None for parameter in objective.head(2).parameters())
    assert inputs["first.0"].grad is None


def state(objective: Objective) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in objective.state_dict().items()}


def test_queue_changes_when_the_step_is_accepted() -> None:
    encoder, objective = build(CONFIG)
    assert isinstance(objective, Nnclr)
    before = state(objective)
    _, pending = objective.losses(objective.encode(encoder, batch(CONFIG, WHOLE)), START)
    assert all(torch.equal(value, before[name]) for name, value in state(objective).items())
    objective.after_step(pending)
    assert objective.head(0).queue.ids.tolist() == [112, 113, 114, 115, *range(99, 107), *range(100, 112)]
    assert int(objective.head(2).queue.place) == 4


def test_rows_and_views() -> None:
    encoder, objective = build(CONFIG)
    assert list(objective.head_rows()) == ["nnclr.0", "nnclr.2"]
    assert objective.unused_layers(encoder) == []
    views = NnclrConfig(local_views=2, local_size=18).views
    assert {name: view.size for name, view in views.items()} == {
        "first": None,
        "second": None,
        "local0": 18,
        "local1": 18,
    }


def test_unused_blocks_and_blocks_that_do_not_exist() -> None:
    encoder = create_encoder(EncoderConfig(name="vit_tiny_patch16_224", img_size=32, depth=3), 0)
    small = {"projector": (8,), "predictor": (8,), "queue": 4}
    assert create_objective(NnclrConfig(blocks=(0,), **small), encoder).unused_layers(encoder) == [
        "blocks.1",
        "blocks.2",
    ]  # type: ignore[arg-type]
    with pytest.raises(UserError, match="0 to 2"):
        create_objective(NnclrConfig(blocks=(3,), **small), encoder)  # type: ignore[arg-type]


def test_views_that_patches_do_not_tile() -> None:
    encoder = create_encoder(EncoderConfig(name="vit_tiny_patch16_224", img_size=32, depth=1), 0)
    nnclr = {"name": "nnclr", "local_views": 1, "local_size": 40, "projector": [8], "predictor": [8], "queue": 4}
    stage = load_recipe({"stages": {"refine": {"objective": nnclr}}}).stages["refine"]
    with pytest.raises(UserError, match="View 'local0' of stage 'refine' has 40 pixels"):
        stage_plan(stage, "refine", encoder, create_objective(stage.objective, encoder))


def test_small_views_have_the_tokens_of_timm() -> None:
    encoder = create_encoder(EncoderConfig(name="vit_tiny_patch16_224", img_size=64, depth=2), 0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=0, dynamic_img_size=True)
    vit.load_state_dict(encoder.vit.state_dict())
    images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.eval()(images), vit.eval()(images), rtol=0, atol=1e-5)


def test_neighbours_belong_to_the_sample() -> None:
    """Draws and keys of a part of the batch are those of the whole."""
    encoder, objective = build(CONFIG)
    whole = batch(CONFIG, WHOLE)
    part = Batch(
        keys=whole.keys[3:5],
        epoch=0,
        views={name: view[3:5] for name, view in whole.views.items()},
        labels=None,
        random=whole.random,
    )
    features, alone = objective.encode(encoder, whole), objective.encode(encoder, part)
    assert torch.equal(features["draws"][3:5], alone["draws"])
    assert alone["ids"].tolist() == [103, 104]
