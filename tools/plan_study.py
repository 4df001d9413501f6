"""Which statistic of the two gradients tells which graft plan is best, and which score tells the best encoder?

    python tools/plan_study.py --work runs/plans --train       # random plans on two sets of images, by `ablate`
    python tools/plan_study.py --work runs/plans --measure     # gradients at the shared start, penalties
    python tools/docs_plans.py                                 # docs/plans.md from docs/plans.json

The plans are drawn at random once and for all. Statistics and scores see training images without their labels; plans
and encoders are judged on held-out images. Stop and start it at will.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from timm.optim.muon import get_lr_scale
from torch import Tensor
from torch.func import vmap

import layergraft
from layergraft.analysis.conflict import block_parameters
from layergraft.analysis.fitted import FittedPart, FittedStage, fit_heads, objective_batch
from layergraft.analysis.terms import Terms, mim_terms, plain_attention, simclr_terms
from layergraft.analysis.two_gradients import Gradients, block_gradients, gradients_of
from layergraft.config import Recipe
from layergraft.config.loading import read_run_recipe
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.features import center_and_normalize, extract
from layergraft.evaluation.few_shot import FEW_SHOT, exact, predict
from layergraft.evaluation.single_images import single_images, strength_without_labels
from layergraft.evaluation.splits import draw_splits
from layergraft.graft.plan import BELOW, block_scales, frozen_rows
from layergraft.objectives.create import create_objective
from layergraft.objectives.mae import Mae
from layergraft.objectives.simclr import Simclr
from layergraft.runs.atomic import write_text
from layergraft.training.muon import orthogonal
from layergraft.training.run_data import load_data

DOCS = Path(__file__).parents[1] / "docs"
DEPTH, LOW, HIGH, MEAN = 6, 0.03, 3.0, 0.5
SCALE, FREEZE = "stages.graft.plan.lr_scale", "stages.graft.plan.freeze"
GAINS = [2.57, 1.2, 0.75, 0.57, 0.5, 0.41]
# Short stages of fashion_tiny; the heads' rate is the same for all, so that plans differ in the encoder alone.
SHORT: dict[str, Any] = {
    "engine.precision": "bf16-mixed",
    "stages.mae.epochs": 4,
    "stages.graft.epochs": 0.75,
    "stages.graft.warmup_epochs": 0.12,
    "stages.graft.plan.heads.lr_scale": 1,
    "evaluate.shots": [5],
    "evaluate.splits": 20,
    "evaluate.protocols": ["logistic"],
}
# Views are mostly grey where colours say nothing of the class, as in `layergraft reproduce --scale colour`.
SETS: dict[str, dict[str, Any]] = {
    "grey": {"data.source": "builtin:fashion-canvas"},
    "colour": {
        "data.source": "builtin:fashion-colour",
        "encoder.in_chans": 3,
        "stages.graft.epochs": 1.5,
        "stages.graft.warmup_epochs": 0.25,
        "stages.graft.views.first.gray": 0.8,
        "stages.graft.views.second.gray": 0.8,
    },
}
BATCH, BATCHES = 64, 4
STEPS = (1, 5, 20)  # of the largest learning rate along one direction
SHOTS = (1, 5, 10)
# Penalties are looked at on a few encoders.
LOOKED_AT = ("ones", "thirds", "decay", "all 3", "any 1", "falling mean 1")


def random_plans() -> dict[str, dict[str, Any]]:
    """References, then plans by chance: rising, falling and any, some of one mean, some with frozen lower blocks."""
    random = np.random.default_rng(20)

    def draw() -> npt.NDArray[np.float64]:
        return np.asarray(np.exp(random.uniform(np.log(LOW), np.log(HIGH), DEPTH)))

    def even(scales: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(scales * MEAN / np.exp(np.log(scales).mean()))

    drawn: list[tuple[str, npt.NDArray[np.float64], int]] = []
    drawn += [(f"rising {number}", np.sort(draw()), 0) for number in (1, 2, 3, 4)]
    drawn += [(f"any {number}", draw(), 0) for number in (1, 2, 3, 4)]
    drawn += [(f"rising mean {number}", even(np.sort(draw())), 0) for number in (1, 2, 3)]
    drawn += [(f"any mean {number}", even(draw()), 0) for number in (1, 2, 3, 4)]
    drawn += [(f"falling mean {number}", even(np.sort(draw())[::-1]), 0) for number in (1, 2, 3)]
    drawn += [(f"frozen {number}", draw(), number) for number in (1, 2, 3, 4)]
    arms: dict[str, dict[str, Any]] = {
        "ones": {},
        "thirds": {SCALE: [0.3, 0.3, 1]},
        "decay": {SCALE: {"decay": 0.65}},
        "all 0.3": {SCALE: {"blocks": [0.3] * DEPTH}},
        "all 3": {SCALE: {"blocks": [3.0] * DEPTH}},
        # Of mean 1, as `ones`. The last: each block as contrast gains by its step, at the start of grey's first seed.
        "thirds even": {SCALE: {"blocks": [0.5625] * 4 + [1.875] * 2}},
        "decay even": {SCALE: {"blocks": [0.264, 0.405, 0.624, 0.96, 1.476, 2.271]}},
        "by gain": {SCALE: {"blocks": GAINS}},
    }
    for index in random.permutation(len(drawn)):
        name, scales, frozen = drawn[index]
        arms[name] = {SCALE: {"blocks": [float(f"{scale:.3g}") for scale in scales]}}
        arms[name] |= {FREEZE: {"blocks": frozen}} if frozen else {}
    return arms


def train(work: Path, seeds: int, jobs: int, more: Mapping[str, dict[str, Any]]) -> None:
    """The two studies, a seed of both at a time."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / "plans.yaml"
    content = {"arms": random_plans() | dict(more), "reference": "ones", "search": [1], "scores": True}
    write_text(file, yaml.safe_dump(content, sort_keys=False))
    for count in range(1, seeds + 1):
        for name, keys in SETS.items():
            layergraft.ablate(
                recipe="fashion_tiny", vary=file, seeds=count, out=work / name, jobs=jobs, overrides=SHORT | keys
            )


def scales_of(recipe: Recipe) -> list[float]:
    """How fast each block moves; 0 where it is frozen."""
    plan, depth = recipe.stages["graft"].plan, recipe.encoder.depth or DEPTH
    names = [*BELOW, *(f"blocks.{index}" for index in range(depth))]
    frozen = frozen_rows(plan, names, depth, "plan")
    return [0.0 if f"blocks.{i}" in frozen else s for i, s in enumerate(block_scales(plan, depth, "plan")[1])]


class Start:
    """The shared start of a seed: the encoder after MAE, both losses with heads, and training images.

    Args:
        stage: directory of the shared stage's job.
        recipe: of a run that went on from it.
    """

    def __init__(self, stage: Path, recipe: Recipe) -> None:
        self.encoder = load_encoder(stage).requires_grad_(False)
        self.random = Randomness(seed=recipe.seed, scope="plan study")
        source = load_data(recipe).train
        self.source = source.subset(source.keys[self.random.permutation("images", source.keys, 0)])
        first = read_run_recipe(stage)
        self.mae = self._part(first, "mae", next((stage / "stages").iterdir()))
        self.contrast = self._part(recipe, "graft", stage)
        mae, simclr = self.mae.load(self.encoder), create_objective(self.contrast.config, self.encoder)
        assert isinstance(mae, Mae)
        assert isinstance(simclr, Simclr)
        self.masked, self.simclr = mae, simclr
        self.simclr.begin_stage(self.encoder)
        self.simclr.requires_grad_(False).eval()

    @staticmethod
    def _part(recipe: Recipe, name: str, directory: Path) -> FittedPart:
        stage = recipe.stages[name]
        fitted = FittedStage(name=name, directory=directory, objective=stage.objective, views=stage.views)
        return FittedPart(stage=fitted, name=name, config=stage.objective)

    def batch(self, number: int) -> Source:
        return self.source.subset(self.source.keys[number * BATCH : (number + 1) * BATCH])

    def terms(self, encoder: Encoder, number: int) -> tuple[Terms, Terms]:
        """(masked images, contrast) of a batch."""
        source = self.batch(number)
        masked = mim_terms(encoder, self.masked, objective_batch(encoder, self.mae, source, self.random))
        contrast = simclr_terms(encoder, self.simclr, objective_batch(encoder, self.contrast, source, self.random))
        return masked, contrast

    def gradients(self) -> Gradients:
        return gradients_of(self.encoder, (self.terms(self.encoder, number) for number in range(BATCHES)))

    def warm(self) -> None:
        """Fit the contrastive heads while the encoder stands still."""
        fit_heads(self.simclr, self.encoder, self.contrast, self.source, self.random)

    def losses(self, encoder: Encoder, numbers: range) -> tuple[float, float]:
        """(masked images, contrast) of an encoder, the mean over batches."""
        sums = np.zeros(2)
        for number in numbers:
            sums += [_mean_loss(encoder, terms) for terms in self.terms(encoder, number)]
        return float(sums[0]) / len(numbers), float(sums[1]) / len(numbers)


@torch.no_grad()
def _mean_loss(encoder: Encoder, terms: Terms) -> float:
    return float(vmap(lambda *image: terms.loss(encoder, *image))(*terms.arguments).mean())


def step_of(gradient: Tensor) -> Tensor:
    """Muon's first step for a learning rate of 1, AdamW's for what is no matrix."""
    return orthogonal(gradient) * get_lr_scale(gradient.shape) if gradient.ndim == 2 else gradient.sign()


def moved(encoder: Encoder, steps: Mapping[str, Tensor], scales: list[float], rate: float) -> Encoder:
    """The encoder after a step of each block times its scale."""
    other = plain_attention(encoder)
    with torch.no_grad():
        for name, value in dict(other.named_parameters()).items():
            full = f"encoder.{name}"
            if full in steps:
                block = int(full.split("blocks.")[1].split(".")[0])
                value.sub_(steps[full], alpha=rate * scales[block])
    return other


def measure_start(stage: Path, runs: Mapping[str, Path]) -> dict[str, Any]:
    """Statistics of both gradients with fresh and with fitted heads; both losses after a step of each plan."""
    recipes = {arm: read_run_recipe(run) for arm, run in runs.items()}
    start = Start(stage, recipes["ones"])
    measured: dict[str, Any] = {"fresh": _by_block(start, start.gradients())}
    start.warm()
    gradients = start.gradients()
    measured["warm"] = _by_block(start, gradients)
    steps = {name: step_of(gradient) for name, gradient in gradients.means[1].items()}
    stage_recipe = recipes["ones"].stages["graft"]
    peak = stage_recipe.optimizer.base_lr * stage_recipe.batch_size / 256
    others = range(BATCHES, 2 * BATCHES)  # other images than those of the gradients
    measured["before"] = start.losses(plain_attention(start.encoder), others)
    measured["after"] = {
        arm: {
            str(count): start.losses(moved(start.encoder, steps, scales_of(recipe), count * peak), others)
            for count in STEPS
        }
        for arm, recipe in recipes.items()
    }
    return measured


def _by_block(start: Start, gradients: Gradients) -> list[dict[str, Any]]:
    """The statistics, and the change of each loss to first order under a step of its own and of the other."""
    rows = [asdict(row) for row in block_gradients(start.encoder, gradients)]
    for row in rows:
        row |= dict.fromkeys(("weight_norm", "mim_by_cl", "cl_by_cl", "cl_by_mim", "mim_by_mim"), 0.0)
    for name, (block, weight) in block_parameters(start.encoder).items():
        row, (mim, cl) = rows[block], (means[name] for means in gradients.means)
        row["weight_norm"] += float(weight.square().sum())
        by_mim, by_cl = step_of(mim), step_of(cl)
        row["mim_by_cl"] -= float((mim * by_cl).sum())
        row["cl_by_cl"] -= float((cl * by_cl).sum())
        row["cl_by_mim"] -= float((cl * by_mim).sum())
        row["mim_by_mim"] -= float((mim * by_mim).sum())
    return rows


def penalties(run: Path) -> dict[str, list[float]]:
    """Accuracy on held-out images with 1, 5 and 10 labels a class: by the published penalty, the best and chosen ones.

    Splits are of training images; the best by labels was seen by the very images that judge it.
    """
    recipe, encoder = read_run_recipe(run), load_encoder(run).requires_grad_(False)
    data, protocol = load_data(recipe), FEW_SHOT["logistic"]
    splits = draw_splits(data.train, SHOTS, 20)
    rows = np.unique(np.concatenate([split.rows for split in splits]))
    train, classes = data.train.subset(data.train.keys[rows]), len(data.train.classes)
    views = single_images(data.train, encoder.img_size, encoder.reads, classes, recipe.seed)
    x, held, viewed = (_prepared(encoder, source) for source in (train, data.holdout, views))
    labels, truth = (torch.from_numpy(source.selected_labels) for source in (train, data.holdout))
    found: dict[str, list[float]] = {"published": [], "label_free": [], "best": []}
    for shots in SHOTS:
        hits = []
        for split in (split for split in splits if split.shots == str(shots)):
            fitted = torch.from_numpy(np.searchsorted(rows, split.rows))
            path = protocol.fit_path(x[fitted], labels[fitted], classes, protocol.strengths)
            hits.append((predict(path, held) == truth).double().mean(1))
        accuracy = 100 * torch.stack(hits).mean(0)
        chosen = strength_without_labels(protocol, views, viewed, shots)[0]
        found["published"].append(float(accuracy[protocol.strengths.index(protocol.fixed)]))
        found["label_free"].append(float(accuracy[protocol.strengths.index(chosen)]))
        found["best"].append(float(accuracy.max()))
    return found


def _prepared(encoder: Encoder, source: Source) -> Tensor:
    return exact(torch.from_numpy(center_and_normalize(extract(encoder, source, "cls"))))


def measure(work: Path) -> dict[str, Any]:
    """All of both sets, a file a seed so that it can go on."""
    study: dict[str, Any] = {"plans": {}, "sets": {}}
    for name in SETS:
        out = work / name
        for stage in sorted(out.glob("runs/mae-*/stage-*")):
            seed = int(stage.name.removeprefix("stage-"))
            runs = {_title(run): run for run in sorted(out.glob(f"runs/*/seed-{seed}")) if _is_done(out, run)}
            if "ones" not in runs:
                continue  # not yet trained
            accuracy = {arm: float(_outcome(out, run)["holdout"]["5"]) for arm, run in runs.items()}
            study["plans"] |= {arm: scales_of(read_run_recipe(run)) for arm, run in runs.items()}
            scores = {arm: _outcome(out, run)["scores"] for arm, run in runs.items()}
            kept = work / "measured" / f"{name}-{seed}.json"
            known = json.loads(kept.read_text()) if kept.is_file() else {"penalties": {}}
            if set(known.get("start", {}).get("after", ())) != set(runs):
                known["start"] = measure_start(stage, runs)
                write_text(kept, json.dumps(known))
            for arm in LOOKED_AT:
                if arm in runs and arm not in known["penalties"]:
                    known["penalties"][arm] = penalties(runs[arm])
                    write_text(kept, json.dumps(known))
            study["sets"].setdefault(name, {})[str(seed)] = known | {"accuracy": accuracy, "scores": scores}
    return study


def _outcome(out: Path, run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "outcomes" / run.parent.name / f"{run.name}.json").read_text())
    return content


def _title(run: Path) -> str:
    return run.parent.name.replace("-", " ")


def _is_done(out: Path, run: Path) -> bool:
    return (out / "outcomes" / run.parent.name / f"{run.name}.json").is_file()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--plans", default="{}", help="more arms, name -> scales of the blocks, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.train:
        more = {name: {SCALE: {"blocks": scales}} for name, scales in json.loads(arguments.plans).items()}
        train(arguments.work, arguments.seeds, arguments.jobs, more)
    if arguments.measure:
        text = json.dumps(measure(arguments.work), indent=1)
        write_text(DOCS / "plans.json", text + "\n")


if __name__ == "__main__":
    main()
