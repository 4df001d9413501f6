"""Measure frozen features: every protocol, number of shots and split that was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layergraft.config.recipe import VARIANTS, EvaluateConfig
from layergraft.data.reading import read_as_trained
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import Encoder
from layergraft.evaluation.auditing.leak import find_leak
from layergraft.evaluation.cache import features_of
from layergraft.evaluation.examples import examples_of
from layergraft.evaluation.features import (
    POOLINGS,
    Array,
    PatchDraw,
    center_and_normalize,
    features_named,
    in_range,
    pixel_side,
    pixels,
)
from layergraft.evaluation.few_shot import FEW_SHOT, FewShotProtocol, LinearClassifier, exact, predict
from layergraft.evaluation.knn import knn_votes
from layergraft.evaluation.probes import Probe, save_probe
from layergraft.evaluation.selection import (
    TASKS,
    best_pooling,
    holdout_tasks,
    scores,
    strength_on_folds,
    strongest_of_the_best,
)
from layergraft.evaluation.side_by_side import side_by_side
from layergraft.evaluation.single_images import strength_without_labels
from layergraft.evaluation.splits import Split, write_splits
from layergraft.evaluation.task import FeatureSets, Task
from layergraft.runs.announce import announce
from layergraft.runs.examples import write_examples
from layergraft.runs.interruption import check
from layergraft.runs.readable import slug
from layergraft.runs.results import SUMMARIES, ResultRow, features_called, summarize

Keep = Callable[[list[ResultRow]], None]
DRAWS = 5  # of the patches that are kept, where a part of them is


class Measurement:
    """One set of features and all that is measured on it. Choices are made by functions that get no test images.

    Args:
        task: labels, and what they are for.
        config: what is measured.
        encoder: of the rows.
        pooling: of the rows.
        features: of the task's sources.
        chosen: what was chosen before, for every row.
        device: where it is computed.
        out: where the classifiers of the first split go, to `probes/`, and what the one with the fewest labels names
            rightly and wrongly, to `examples.json`; None keeps none.
        channels: of the pictures in `examples.json`.
    """

    def __init__(
        self,
        task: Task,
        config: EvaluateConfig,
        encoder: str,
        pooling: str | None,
        features: FeatureSets,
        chosen: Mapping[str, Any],
        device: torch.device,
        out: Path | None,
        channels: int = 1,
    ) -> None:
        self.task, self.config = task, config
        self.encoder, self.pooling = encoder, pooling
        self.called = None if pooling is None else features_called(pooling, config.block, config.keep)
        self.chosen, self.device = dict(chosen), device
        self.out, self.channels = out, channels
        self.raw = {name: torch.from_numpy(in_range(array)).to(device) for name, array in features.items()}
        self.labels, self.classes = task.train.selected_labels, len(task.train.classes)
        self.y, self.truth = (torch.from_numpy(part).to(device) for part in (self.labels, task.test_labels()))

    # Not made before classifiers are fitted: the neighbours need memory of their own.
    @cached_property
    def x(self) -> dict[str, Tensor]:
        """Rows that classifiers are fitted to and name, in place of those of the neighbours, who are done then."""
        rows = {}
        for name in list(self.raw):
            rows[name] = torch.from_numpy(center_and_normalize(self.raw.pop(name).cpu().numpy())).to(self.device)
        return rows

    @cached_property
    def queries(self) -> Tensor:
        return exact(self.x["test"])

    def row(
        self,
        protocol: str,
        variant: str | None,
        split: Split,
        predicted: Tensor,
        seconds: float,
        chosen: dict[str, Any],
    ) -> ResultRow:
        return ResultRow(
            encoder=self.encoder,
            source=self.task.train.spec,
            test=self.task.test_name,
            protocol=protocol,
            variant=variant,
            shots=split.shots,
            split=str(split.number),
            pooling=self.called,
            metric="top1",
            value=100 * float((predicted == self.truth).double().mean()),
            n_train=len(split.rows),
            n_test=len(self.truth),
            chosen=self.chosen | chosen | ({"list": split.file} if split.file else {}),
            seconds=seconds,
            seed=self.task.seed,
        ).with_interval()

    def _keep_examples(self, row: ResultRow, predicted: Tensor) -> None:
        if self.out:
            truth, named = (part.cpu().numpy() for part in (self.truth, predicted))
            test = self.task.test
            kept = examples_of(row, test, self.task.train.classes, truth, named, self.channels)
            write_examples(self.out / "examples.json", kept)

    def knn(self, with_examples: bool = False) -> list[ResultRow]:
        """All labels; the first of the best k and temperature on held-out images, where several are given."""
        began, config = time.perf_counter(), self.config
        k, temperature = config.k[0], config.temperature[0]
        chosen: dict[str, Any] = {}
        if len(config.k) * len(config.temperature) > 1:
            held = torch.from_numpy(self.task.choosing().selected_labels).to(self.device)
            votes = knn_votes(
                self.raw["train"], self.y, self.raw["holdout"], config.k, config.temperature, self.classes
            )
            hits = {setting: int((sums.argmax(1) == held).sum()) for setting, sums in votes.items()}
            k, temperature = max(hits, key=lambda setting: hits[setting])
            chosen = {"by": "held-out images"}
        votes = knn_votes(self.raw["train"], self.y, self.raw["test"], [k], [temperature], self.classes)
        everything = Split(shots="100%", number=0, rows=np.arange(len(self.labels)))
        chosen = {"k": k, "temperature": temperature} | chosen
        predicted = votes[k, temperature].argmax(1)
        row = self.row("knn", None, everything, predicted, time.perf_counter() - began, chosen)
        if with_examples:
            self._keep_examples(row, predicted)
        return [row]

    def few_shot(
        self, name: str, variant: str | None, splits: Sequence[Split], with_examples: bool = False
    ) -> list[ResultRow]:
        """One protocol and variant on all splits of one number of shots."""
        protocol, began = FEW_SHOT[name], time.perf_counter()
        fixed, note = self._chosen_strength(protocol, variant, splits[0])
        choosing = time.perf_counter() - began

        def fit(split: Split) -> tuple[LinearClassifier, dict[str, Any], float]:
            began, strength, how = time.perf_counter(), fixed, note
            x, y = exact(self.x["train"][split.rows]), self.y[split.rows]
            if variant == "cv":
                strength, how = strength_on_folds(protocol, x, self.labels[split.rows], self.classes)
            elif how is None and variant is not None:
                how = {"lambda_n": strength, "by": variant}
            classifier = protocol.fit_path(x, y, self.classes, [strength])[0]
            return classifier, how or {}, time.perf_counter() - began + choosing * (split is splits[0])

        size = max(len(split.rows) for split in splits) * self.x["train"].shape[1]
        fits = side_by_side(fit, splits, size, self.device)
        began = time.perf_counter()
        predicted = predict([classifier for classifier, _, _ in fits], self.queries)
        share = (time.perf_counter() - began) / len(fits)
        rows = [
            self.row(name, variant, split, guess, seconds + share, how)
            for split, guess, (_, how, seconds) in zip(splits, predicted, fits, strict=True)
        ]
        if self.out and self.pooling:
            save_probe(self._probe(rows[0], fits[0][0]), self.out / "probes")
        if with_examples:
            self._keep_examples(rows[0], predicted[0])
        return rows + summarize(rows)

    def _chosen_strength(
        self, protocol: FewShotProtocol, variant: str | None, split: Split
    ) -> tuple[float, dict[str, Any] | None]:
        """(penalty of all splits of one number of shots, how it was chosen); the fixed one where none is chosen yet."""
        shots = max(1, round(len(split.rows) / self.classes))
        if variant == "label_free":
            assert self.task.views is not None
            return strength_without_labels(protocol, self.task.views, self.x["views"], shots)
        return self._on_holdout(protocol, shots) if variant == "holdout" else (protocol.fixed, None)

    def _on_holdout(self, protocol: FewShotProtocol, shots: int) -> tuple[float, dict[str, Any]]:
        held = self.task.choosing()
        shots, tasks = holdout_tasks(held, shots)
        accuracies = scores(protocol, protocol.strengths, self.x["holdout"], held.selected_labels, self.classes, tasks)
        strength = strongest_of_the_best(protocol.strengths, accuracies)
        return strength, {"lambda_n": strength, "by": "held-out images", "tasks": TASKS, "task_shots": shots}

    def _probe(self, row: ResultRow, classifier: LinearClassifier) -> Probe:
        assert self.pooling is not None
        return Probe(
            weight=classifier[0].T,
            bias=classifier[1],
            classes=self.task.train.classes,
            encoder=row.encoder,
            source=row.source,
            protocol=row.protocol,
            variant=row.variant,
            shots=row.shots,
            split=row.split,
            pooling=self.pooling,
            block=self.config.block,
            chosen=row.chosen,
        )

    def parts(self) -> Iterator[list[ResultRow]]:
        """Everything that was asked for: the rows of one protocol, variant and number of shots at a time."""
        protocols = [name for name in dict.fromkeys(self.config.frozen_protocols) if name in FEW_SHOT]
        if "knn" in self.config.protocols:
            yield self.knn(with_examples=not protocols)
        splits = self.task.labelled_splits(self.config) if protocols else []
        fewest = min(splits, key=lambda split: len(split.rows)).shots if splits else ""
        first = True  # examples of one protocol are enough
        for name in protocols:
            for variant in dict.fromkeys(self.config.variants(name)) if name in VARIANTS else (None,):
                for shots in dict.fromkeys(split.shots for split in splits):
                    check()
                    of_these = [split for split in splits if split.shots == shots]
                    yield self.few_shot(name, variant, of_these, with_examples=first and shots == fewest)
                first = False

    def rows(self, keep: Keep | None = None) -> list[ResultRow]:
        """Everything that was asked for.

        Args:
            keep: called with the rows of each part as soon as they are there.
        """
        rows: list[ResultRow] = []
        for part in self.parts():
            rows += part
            if keep is not None:
                keep(part)
            check()
        return rows


def evaluate_encoders(
    task: Task,
    config: EvaluateConfig,
    encoders: Mapping[str, Encoder],
    out: Path | None = None,
    keep: Keep | None = None,
    look_for_leak: bool = False,
) -> list[ResultRow]:
    """The pixels at the size of the first encoder, then every encoder.

    Args:
        task: labels, and what is classified; `Task.on_holdout` measures on held-out images.
        config: protocols, shots, splits, poolings.
        encoders: `encoder` of the rows -> encoder.
        out: directory of the results: splits go to `splits/`, fitted classifiers to `probes/`; None keeps neither.
        keep: called with rows as soon as they are there, so that a signal costs none.
        look_for_leak: warn of test images that are among the training images.

    Returns:
        The rows of results.json.

    Raises:
        Stopped: a signal came; `keep` has had what was finished.
    """
    task.check(config)
    if not config.chooses:
        task = replace(task, holdout=None)  # whose images need not be looked at then
    first = next(iter(encoders.values()))
    side = pixel_side(first.img_size, first.in_chans, len(task.train))

    def pixels_of(source: Source) -> Array:
        return pixels(read_as_trained(source, first.reads), first.img_size, first.in_chans, side)

    task, floor = task.readable({name: pixels_of(source) for name, source in task.sources.items()})
    with_views = task.with_views(config, first.img_size, first.reads)
    if with_views.views is not None:
        floor["views"] = pixels_of(with_views.views)
    note = {} if side == first.img_size else {"side": side}
    of_pixels = Measurement(with_views, config, "pixels", None, floor, note, first.device, None)
    del floor  # it goes as soon as it is not needed any more
    rows = of_pixels.rows(keep)
    del of_pixels
    if out is not None and any(name in FEW_SHOT for name in config.frozen_protocols):
        write_splits(out / "splits" / slug(task.train.spec), task.train, task.labelled_splits(config))
    for number, (name, encoder) in enumerate(encoders.items()):
        if config.keep is not None:
            rows += _evaluate_draws(task, config, config.keep, name, encoder, keep)
            continue
        rows += _evaluate(task, config, name, encoder, out, keep, look_for_leak and number == 0)
    return rows


def _evaluate(
    task: Task,
    config: EvaluateConfig,
    name: str,
    encoder: Encoder,
    out: Path | None,
    keep: Keep | None,
    look_for_leak: bool,
) -> list[ResultRow]:
    """All protocols and poolings on one encoder."""
    task = task.with_views(config, encoder.img_size, encoder.reads)
    poolings = POOLINGS if "auto" in config.pooling else config.pooling
    with features_named(name):
        by_part = {part: features_of(encoder, source, poolings, config.block) for part, source in task.sources.items()}
    if look_for_leak and config.block is None:  # how alike images are in inner blocks says little
        train, test = (center_and_normalize(by_part[part][poolings[0]]) for part in ("train", "test"))
        if warning := find_leak(task.train, task.test, train, test).warning:
            announce(warning)
    inner = {} if config.block is None else {"block": config.block}
    notes: dict[str, dict[str, Any]] = {pooling: inner for pooling in config.pooling if pooling != "auto"}
    if "auto" in config.pooling:
        x = {p: torch.from_numpy(center_and_normalize(array)) for p, array in by_part["holdout"].items()}
        shots = {max(1, round(len(split.rows) / len(task.train.classes))) for split in task.labelled_splits(config)}
        best = best_pooling(x, task.choosing(), sorted(shots))
        notes[best] = inner | {"pooling": best, "pooling_by": "held-out images"}
    rows = []
    for pooling, note in notes.items():
        features = {part: arrays[pooling] for part, arrays in by_part.items()}
        of = Measurement(task, config, name, pooling, features, note, encoder.device, out, encoder.in_chans)
        rows += of.rows(keep)
    return rows


def _evaluate_draws(
    task: Task, config: EvaluateConfig, share: float, name: str, encoder: Encoder, keep: Keep | None
) -> list[ResultRow]:
    """All protocols and poolings on one encoder that sees a random part of the patches of every image.

    Row i of a measurement is of draw i of the patches and split i of the labels, each counted round where there are
    fewer: mean and deviation are over both.
    """
    task = task.with_views(config, encoder.img_size, encoder.reads)
    few_shot = any(protocol in FEW_SHOT for protocol in config.frozen_protocols)
    by_shots: dict[str, list[Split]] = {}
    for split in task.labelled_splits(config) if few_shot else ():
        by_shots.setdefault(split.shots, []).append(split)
    rows: dict[tuple[object, ...], list[ResultRow]] = {}
    for draw in range(DRAWS):
        features = _drawn_features(task, config, share, draw, name, encoder)
        numbered = {shots: range(draw, max(DRAWS, len(splits)), DRAWS) for shots, splits in by_shots.items()}
        of_draw = [
            replace(splits[number % len(splits)], number=number)
            for shots, splits in by_shots.items()
            for number in numbered[shots]
        ]
        part = replace(task, splits=tuple(of_draw))
        for pooling in config.pooling:
            arrays = {source: by_pooling[pooling] for source, by_pooling in features.items()}
            chosen = {"keep": share, "draw": draw} | ({} if config.block is None else {"block": config.block})
            for row in Measurement(part, config, name, pooling, arrays, chosen, encoder.device, None).rows():
                if row.split not in SUMMARIES:
                    one = replace(row, split=str(draw)) if row.protocol == "knn" else row
                    rows.setdefault(one.measurement, []).append(one)
    summed = [one for part in rows.values() for one in [*part, *summarize(part)]]
    if keep is not None:
        keep(summed)
    return summed


def _drawn_features(
    task: Task, config: EvaluateConfig, share: float, draw: int, name: str, encoder: Encoder
) -> dict[str, dict[str, Array]]:
    """Part of the task -> pooling -> features (N, D) of a draw of the patches."""
    features = {}
    with features_named(name):
        for part, source in task.sources.items():
            patches = PatchDraw(share=share, seed=task.seed, part=part, number=draw)
            features[part] = features_of(encoder, source, config.pooling, config.block, patches)
    return features
