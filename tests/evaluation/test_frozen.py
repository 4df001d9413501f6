"""Whole evaluations on a few built-in images."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

import layergraft
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig, EvaluateConfig
from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.evaluation import frozen
from layergraft.evaluation.features import center_and_normalize, extract, view_batches
from layergraft.evaluation.frozen import evaluate_encoders
from layergraft.evaluation.probes import ProbeClassifier, load_probe
from layergraft.evaluation.task import Task
from layergraft.runs.results import ResultRow, write_results

ENCODER = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=4, num_heads=2
)
EVERYTHING = EvaluateConfig(
    protocols=("knn", "logistic", "ridge", "prototype"),
    variant=("published", "cv", "holdout", "label_free"),
    shots=(1, 5, "10%"),
    splits=2,
    pooling=("cls", "auto"),
    k=(5, 20),
    temperature=(0.07, 0.2),
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return create_encoder(ENCODER, 0)


def _task() -> Task:
    train, holdout = split_holdout(open_source("builtin:fashion-canvas?fraction=0.05"), 100, seed=0)
    test = open_source("builtin:fashion-canvas:test?fraction=0.04")
    return Task(train=train, holdout=holdout, test=test, test_name=test.spec, seed=0)


@pytest.fixture(scope="module")
def everything(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, list[ResultRow], Path]:
    task, out = _task(), tmp_path_factory.mktemp("everything")
    return task, evaluate_encoders(task, EVERYTHING, {"some": encoder}, out), out


def test_on_held_out_images(encoder: Encoder) -> None:
    train, holdout = split_holdout(open_source("builtin:fashion-canvas?fraction=0.05"), 100, seed=0)
    task = Task.on_holdout(train, holdout, seed=0)
    rows = evaluate_encoders(task, EvaluateConfig(shots=(1, 5), splits=2), {"some": encoder})
    assert {row.encoder for row in rows} == {"pixels", "some"}
    assert {row.test for row in rows} == {"holdout"}
    assert {row.n_test for row in rows} == {100}
    assert not np.intersect1d(train.keys, holdout.keys).size
    assert max(row.value for row in rows) > 10
    with pytest.raises(UserError, match="held-out"):
        evaluate_encoders(task, EvaluateConfig(protocols=("ridge",), shots=(1,)), {"some": encoder})


def test_no_choice_sees_the_test_set(everything: tuple[Task, list[ResultRow], Path], encoder: Encoder) -> None:
    """With noise for test labels every accuracy falls to chance, and every choice stays what it was."""
    task, rows, _ = everything
    assert task.test.labels is not None
    noise = np.random.default_rng(0).integers(0, 10, len(task.test.labels))
    noisy = evaluate_encoders(replace(task, test=replace(task.test, labels=noise)), EVERYTHING, {"some": encoder})
    assert [row.identity for row in noisy] == [row.identity for row in rows]
    assert [row.chosen for row in noisy] == [row.chosen for row in rows]
    kinds = {
        (row.protocol, row.variant, row.chosen["by"]) for row in rows if row.encoder == "some" and "by" in row.chosen
    }
    assert kinds >= {("knn", None, "held-out images")} | {
        (name, variant, by)
        for name in ("logistic", "ridge")
        for variant, by in (
            ("holdout", "held-out images"),
            ("cv", "folds over the shots"),
            ("label_free", "views of single images"),
        )
    }
    assert {row.chosen.get("pooling") for row in rows if row.encoder == "some"} - {None}
    assert np.mean([row.value for row in noisy]) < 15 < np.mean([row.value for row in rows])


def test_rows(everything: tuple[Task, list[ResultRow], Path]) -> None:
    _, rows, _ = everything
    assert len({row.identity for row in rows}) == len(rows)
    seen = {(row.protocol, row.variant) for row in rows}
    assert seen == {("knn", None), ("prototype", None)} | {
        (name, variant) for name in ("logistic", "ridge") for variant in EVERYTHING.variant
    } - {("ridge", "published")}
    assert {(row.shots, row.split) for row in rows if row.protocol == "knn"} == {("100%", "0")}
    assert {row.pooling for row in rows if row.encoder == "pixels"} == {None}
    per_shot = {row.shots: row.n_train for row in rows if row.split == "0"}
    assert (per_shot["1"], per_shot["5"]) == (10, 50)
    for row in rows:
        if row.split == "mean":
            same = [r.value for r in rows if r.measurement == row.measurement and r.split in "01"]
            assert len(same) == 2
            assert row.value == pytest.approx(np.mean(same))


def test_pooling_that_was_chosen_is_an_ordinary_measurement(
    everything: tuple[Task, list[ResultRow], Path], encoder: Encoder
) -> None:
    task, rows, _ = everything
    best = next(row.chosen["pooling"] for row in rows if "pooling" in row.chosen)
    config = EvaluateConfig(protocols=("prototype",), shots=(5,), splits=2, pooling=(best,))
    plain = [row.value for row in evaluate_encoders(task, config, {"some": encoder}) if row.encoder == "some"]
    mine = [
        row.value
        for row in rows
        if (row.encoder, row.protocol, row.shots, row.pooling) == ("some", "prototype", "5", best)
    ]
    assert mine == plain


def test_probe_classifies_as_it_was_measured(everything: tuple[Task, list[ResultRow], Path], encoder: Encoder) -> None:
    task, rows, out = everything
    probe = load_probe(out / "probes" / "some-logistic-published-5-cls.safetensors")
    assert probe.classes == task.train.classes
    images = torch.cat(list(view_batches(task.test, 36, 1))).float() / 255
    images = (images - encoder.mean[0]) / encoder.std[0]
    with torch.inference_mode():
        found = ProbeClassifier(encoder, probe).eval()(images).argmax(1).numpy()
    row = next(
        r for r in rows if (r.encoder, r.variant, r.shots, r.split, r.pooling) == ("some", "published", "5", "0", "cls")
    )
    assert 100 * (found == task.test_labels()).mean() == pytest.approx(row.value, abs=100 / len(images) + 1e-9)
    features = center_and_normalize(extract(encoder, task.test, "cls"))
    assert features.shape[1] == probe.weight.shape[1]


def test_what_is_wrong_is_said_before_an_image_is_read(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "pixels", None)
    task = _task()
    few = EvaluateConfig(shots=(999,))
    with pytest.raises(UserError, match="999 shots were asked for"):
        evaluate_encoders(task, few, {"some": encoder})
    with pytest.raises(UserError, match="there are none"):
        evaluate_encoders(replace(task, holdout=None), EVERYTHING, {"some": encoder})
    other = replace(task.test, classes=[f"other {name}" for name in task.test.classes])
    with pytest.raises(UserError, match="has none of"):
        evaluate_encoders(replace(task, test=other), EvaluateConfig(), {"some": encoder})


def test_words_that_are_given_twice_count_once(encoder: Encoder) -> None:
    twice = EvaluateConfig(protocols=("prototype", "prototype"), shots=(1, 1), splits=2)
    rows = evaluate_encoders(_task(), twice, {"some": encoder})
    assert len({row.identity for row in rows}) == len(rows) == 8


def _source(classes: list[str], labels: list[int]) -> Source:
    base = open_source("builtin:fashion-canvas")
    keys = np.arange(len(labels), dtype=np.int64)
    return replace(base, keys=keys, labels=np.array(labels), classes=classes, spec="mine")


def test_classes_are_matched_by_name() -> None:
    task = Task(train=_source(["a", "b", "c"], [0, 1, 2]), test=_source(["c", "a"], [0, 1, 0]), test_name="t", seed=0)
    assert list(task.test_labels()) == [2, 0, 2]
    unseen = replace(task, test=_source(["a", "x", "y"], [0, 1, 1, 2]))
    with pytest.raises(UserError, match=r"images of 2 classes .*'x' \(2\), 'y' \(1\)"):
        unseen.test_labels()
    empty = replace(task, train=_source(["a", "b", "c"], [0, 1, 1]))
    with pytest.raises(UserError, match=r"'c' \(2\)"):
        empty.test_labels()


def test_same_identity_is_replaced(everything: tuple[Task, list[ResultRow], Path], tmp_path: Path) -> None:
    _, rows, _ = everything
    write_results(tmp_path / "results.json", rows)
    write_results(tmp_path / "results.json", [replace(rows[0], value=1.5)])
    read = json.loads((tmp_path / "results.json").read_text())
    assert len(read) == len(rows)
    assert [row["value"] for row in read].count(1.5) == 1


WORDS = ["--data", "builtin:fashion-canvas?fraction=0.03", "--test", "builtin:fashion-canvas:test?fraction=0.03"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    settings = {"stages.mae.epochs": 1, "stages.graft.epochs": 1, "monitor.every": 0, "analyze": []}
    layergraft.train(recipe="fashion_paper", out=out, overrides=TINY | settings)
    return out


def test_command_on_a_run(run: Path) -> None:
    before = {(row["encoder"], row["test"]) for row in json.loads((run / "results.json").read_text())}
    words = ["evaluate", "--encoder", str(run), "--data", TINY["data.source"], "--shots", "1", "2", "--splits", "2"]
    assert main([*map(str, words), "--protocols", "logistic", "prototype", "--against", str(run / "stages/0-mae")]) == 0
    rows = json.loads((run / "results.json").read_text())
    assert {(row["encoder"], row["test"]) for row in rows} == before
    assert {row["encoder"] for row in rows if row["protocol"] == "prototype"} == {"pixels", "graft", "mae"}
    published = {
        row["split"]: row
        for row in rows
        if (row["encoder"], row["protocol"], row["shots"]) == ("graft", "logistic", "2")
    }
    assert published["0"]["n_train"] == 20
    assert (run / "probes" / "graft-prototype-2-cls.safetensors").is_file()
    (splits,) = (run / "splits").iterdir()
    assert {path.name for path in splits.iterdir()} == {f"{k}-{n}.txt" for k in (1, 2) for n in (0, 1)}
    assert "nearest class mean" in (run / "report.html").read_text()


def test_copies_of_an_encoder_have_rows_of_their_own(run: Path, tmp_path: Path) -> None:
    """A momentum encoder, named by its directory or by `?encoder=`, never takes the row of the trained one."""

    def knn() -> dict[str, float]:
        rows = json.loads((out / "results.json").read_text())
        return {row["encoder"]: row["value"] for row in rows if row["protocol"] == "knn"}

    out = tmp_path / "run"
    shutil.copytree(run, out)
    before = knn()
    rows = json.loads((out / "results.json").read_text())
    (out / "results.json").write_text(json.dumps([row for row in rows if row["encoder"] != "graft/momentum"]))
    for name in (f"{out}/stages/1-graft/encoder_momentum", f"{out}?encoder=momentum"):
        words = ["evaluate", "--encoder", name, "--data", str(TINY["data.source"]), "--protocols", "knn"]
        assert main(words) == 0
        assert knn() == before


def test_given_splits_reproduce_the_figures(run: Path, tmp_path: Path) -> None:
    (splits,) = (run / "splits").iterdir()
    words = ["evaluate", "--encoder", str(run / "encoder"), "--data", str(TINY["data.source"])]
    words += ["--protocols", "prototype", "--out", str(tmp_path)]
    assert main([*words, "--splits", str(splits)]) == 0
    given = json.loads((tmp_path / "results.json").read_text())
    mine = {(r["shots"], r["split"]): r["value"] for r in given if r["encoder"] == str(run / "encoder")}
    theirs = {
        (r["shots"], r["split"]): r["value"]
        for r in json.loads((run / "results.json").read_text())
        if (r["encoder"], r["protocol"]) == ("graft", "prototype")
    }
    assert mine == pytest.approx(theirs)
    assert {r["chosen"].get("list") for r in given if r["split"] == "1"} == {
        str(splits / "1-1.txt"),
        str(splits / "2-1.txt"),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shots", "99"], "99 shots were asked for"),
        (["--shots", "few"], "no number of shots"),
        (["--protocols", "nkk"], "'nkk'"),
        (["--protocols", "ridge", "--holdout", "0"], "there are none"),
        (["--pooling", "auto", "--holdout", "0"], "there are none"),
        (["--splits", "none.txt"], "no list of labelled images"),
        (["--splits", "a.txt", "--shots", "1"], "lists of labelled images"),
        (["--protocol", "knn"], "protocols"),
        (["--pooling", "clss"], "Did you mean 'cls'?"),
        (["--k", "0"], "from 1 on"),
        (["--temperature", "0"], "above 0"),
        (["--protocols", "ridge", "--holdout", "3"], "classes have fewer than two"),
    ],
)
def test_bad_input(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["evaluate", "--encoder", str(run / "encoder"), *WORDS, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_unlabelled_images_are_refused(run: Path, colour_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--encoder", str(run / "encoder"), "--data", str(colour_folder), "--test", str(colour_folder)]
    assert main(words) == 2
    assert "48 images" in capsys.readouterr().err


def test_embed(run: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = layergraft.embed(encoder=run, data=WORDS[1], out=tmp_path / "features.parquet", pooling="mean", block=1)
    table, source = pq.read_table(path), open_source(WORDS[1])
    assert table.column("key").to_pylist() == source.keys.tolist()
    assert table.column("label").to_pylist() == [source.classes[c] for c in source.selected_labels]
    described = json.loads(table.schema.metadata[b"layergraft"])
    assert (described["pooling"], described["block"]) == ("mean", 1)
    encoder = layergraft.load_encoder(run)
    images = (torch.cat(list(view_batches(source, 36, 1))).float() / 255 - encoder.mean[0]) / encoder.std[0]
    with torch.inference_mode():
        tokens = encoder.norm(encoder.run_blocks(encoder.tokens(images), stop=2)[0])
    expected = tokens[:, 1:].mean(1).numpy()
    assert np.abs(np.array(table.column("feature").to_pylist()) - expected).max() <= 1e-5
    assert main(["embed", "--encoder", str(run), "--data", WORDS[1], "--out", str(tmp_path / "x"), "--block", "9"]) == 2
