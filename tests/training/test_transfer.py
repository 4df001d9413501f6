"""Protocols that train, as `layergraft evaluate` runs them: exact after kills, the same in two processes, honest."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layergraft
from layergraft.commands import evaluate
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.data.masks import ArrayMasks
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder

TINY = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=2, num_heads=2
)
VARYING = {"images_per_second", "data_wait", "time"}
# Every protocol in a few steps, with all that is random switched on.
SHORT = {
    "linear": ["--linear.epochs", "3", "--linear.objective.batchnorm", "true"],
    "finetune": ["--finetune.epochs", "3", "--finetune.warmup-epochs", "0", "--finetune.ema", "0.9"],
    "segment": [
        *("--variant", "linear", "upernet", "--segment.epochs", "2", "--segment.warmup-epochs", "0"),
        *("--upernet.epochs", "2", "--upernet.warmup-epochs", "0"),
        *("--upernet.objective.width", "16", "--upernet.objective.drop_path", "0.5"),
    ],
}
# A process that kills itself anywhere in the step after the one that wrote a given number of rows.
KILLED = """
import os, random, signal, sys, threading, time
from layergraft.commands.cli import main
from layergraft.runs.metrics import MetricsFile

left, shortest, last, write = int(sys.argv[1]), 1.0, time.monotonic(), MetricsFile.write

def counted(file, row):
    global left, shortest, last
    write(file, row)
    left, shortest, last = left - 1, min(shortest, time.monotonic() - last), time.monotonic()
    if left == 0:
        threading.Timer(shortest * random.random(), os.kill, (os.getpid(), signal.SIGKILL)).start()
    if left < 0:
        time.sleep(60)  # the kill is due

MetricsFile.write = counted
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    save_encoder(create_encoder(TINY, 0, (0.17,), (0.3,)), path, {})
    return path


def words(protocol: str, encoder: Path, out: Path) -> list[str]:
    data = "fashion-scenes" if protocol == "segment" else "fashion-canvas"
    fraction = 0.04 if protocol == "segment" else 0.02
    stages = ("segment", "upernet") if protocol == "segment" else (protocol,)
    return [
        *("evaluate", "--encoder", str(encoder), "--out", str(out), "--protocols", protocol),
        *("--data", f"builtin:{data}?fraction={fraction}", "--test", f"builtin:{data}:test?fraction=0.02"),
        *(word for stage in stages for word in (f"--{stage}.batch-size", "32")),
        *("--engine.log-every", "1", "--engine.checkpoint-steps", "2"),
        *SHORT[protocol],
    ]


def bits(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.safetensors"))}


def rows(out: Path) -> list[dict[str, Any]]:
    found = json.loads((out / "results.json").read_text())
    return [{key: value for key, value in row.items() if key not in ("seconds",)} for row in found]


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = [line for path in sorted(out.rglob("metrics.jsonl")) for line in path.read_text().splitlines()]
    return [{key: value for key, value in json.loads(line).items() if key not in VARYING} for line in lines]


@pytest.fixture(scope="module", params=["linear", "finetune", "segment"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(protocol: str, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A protocol that was left alone."""
    out = tmp_path_factory.mktemp(protocol)
    assert main(words(protocol, encoder, out)) == 0
    return out


def test_rows(protocol: str, whole: Path) -> None:
    """The last epoch is reported, the best held-out epoch beside it."""
    found = {(row["variant"], row["metric"]): row for row in rows(whole)}
    variants = ["linear", "upernet"] if protocol == "segment" else [None]
    names = ["miou", "pixel_accuracy"] if protocol == "segment" else ["top1"]
    best = {variant: "best_epoch" if variant is None else f"{variant}/best_epoch" for variant in variants}
    assert set(found) == {(name, metric) for pair in best.items() for name in pair for metric in names}
    for variant in variants:
        last, held_out = found[variant, names[0]], found[best[variant], names[0]]
        stage = "upernet" if variant == "upernet" else protocol
        lines = [row for row in metrics(whole) if row["stage"] == stage]
        assert last["chosen"]["epoch"] == (2 if protocol == "segment" else 3)
        figure = "holdout_miou" if protocol == "segment" else "holdout_top1"
        values = {row["step"]: row[figure] for row in lines if figure in row}
        assert held_out["chosen"][figure] == max(values.values())
        steps_per_epoch = lines[-1]["step"] / last["chosen"]["epoch"]
        assert held_out["chosen"]["epoch"] * steps_per_epoch == max(values, key=lambda step: values[step])


def environment(threads: int, more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads), **(more or {})}


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_killed_protocol_ends_with_the_same_bits(
    protocol: str, whole: Path, encoder: Path, tmp_path: Path, kills: int
) -> None:
    arguments, done = words(protocol, encoder, tmp_path), len(metrics(whole))
    for kill in range(kills):
        after = random.randint(1, done // 3 if kill == 0 else 2)  # rows; there are more than all kills let pass
        process = subprocess.run(
            [sys.executable, "-c", KILLED, str(after), *arguments],
            env=environment(torch.get_num_threads()),
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert process.returncode == -signal.SIGKILL, (after, process.stderr)
        assert not (tmp_path / "results.json").exists()
    assert main(arguments) == 0
    assert bits(tmp_path) == bits(whole)
    assert metrics(tmp_path) == metrics(whole)
    assert rows(tmp_path) == rows(whole)


def noisy(source: Source) -> Source:
    """The same images with noise for labels, or for the classes of all pixels."""
    generator = np.random.default_rng(0)
    if source.masks is not None:
        shape = (len(source.masks.largest()), *source.masks.load(0).shape)
        noise = generator.integers(1, len(source.classes) + 1, shape, dtype=np.uint8)
        return replace(source, masks=ArrayMasks(noise))
    assert source.labels is not None
    return replace(source, labels=generator.integers(0, len(source.classes), len(source.labels)))


def test_choices_do_not_see_the_test(
    protocol: str, whole: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With noise for test labels, or test masks, every head and epoch that was chosen stays the same."""
    replaced = []

    def open_with_noise(spec: str) -> Source:
        source = open_source(spec)
        if ":test" not in spec:
            return source
        replaced.append(spec)
        return noisy(source)

    monkeypatch.setattr(evaluate, "open_source", open_with_noise)
    assert main(words(protocol, encoder, tmp_path)) == 0
    assert len(replaced) == 1
    assert [row["chosen"] for row in rows(tmp_path)] == [row["chosen"] for row in rows(whole)]
    assert bits(tmp_path) == bits(whole)


@pytest.mark.slow
def test_two_processes_train_as_one(protocol: str, whole: Path, encoder: Path, tmp_path: Path) -> None:
    """The same losses up to the order of summation, and one set of results."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    shared |= {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    group = [
        subprocess.Popen(
            [sys.executable, "-m", "layergraft", *words(protocol, encoder, tmp_path)],
            env=environment(1, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in group]
    assert [process.returncode for process in group] == [0, 0], errors
    alone, together = metrics(whole), metrics(tmp_path)
    assert [row["step"] for row in alone] == [row["step"] for row in together]
    worst = max(abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in zip(alone, together, strict=True))
    print(f"largest relative difference in loss: {worst:.2e}")
    assert worst <= 1e-3
    identity = ("encoder", "protocol", "variant", "metric", "shots", "split")
    assert [[row[key] for key in identity] for row in rows(tmp_path)] == [
        [row[key] for key in identity] for row in rows(whole)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocols", "linear", "--data", "builtin:fashion-scenes"], "have no labels"),
        (["--protocols", "segment", "--data", "builtin:fashion-canvas"], "have none"),
        (["--protocols", "segment", "--data", "builtin:fashion-scenes", "--shots", "5"], "percentages"),
        (["--protocols", "finetune", "--data", "builtin:fashion", "--finetune.epoch", "3"], "'epochs'"),
        (["--protocols", "finetune", "--data", "builtin:fashion", "--shots", "5000"], "5000 shots"),
    ],
)
def test_bad_input(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["evaluate", "--encoder", str(encoder), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "trained").exists()


def test_an_encoder_that_cannot_be_saved_is_refused_before_training(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layergraft.export(encoder=f"{encoder}?norm_eps=1e-12", format="hf", out=tmp_path / "hf")
    assert main(words("linear", tmp_path / "hf", tmp_path / "out")) == 2
    assert "?norm_eps=1e-06" in capsys.readouterr().err
    assert not (tmp_path / "out" / "trained").exists()


@pytest.mark.parametrize(
    ("section", "key", "value"), [("pretrained_cfg", "mean", [0.5]), ("model_args", "num_heads", 4)]
)
def test_another_configuration_of_the_same_weights_trains_anew(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str, key: str, value: object
) -> None:
    changed, out = tmp_path / "encoder", tmp_path / "out"
    shutil.copytree(encoder, changed)
    arguments = [*words("linear", changed, out), "--linear.epochs", "1"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert "done before" in capsys.readouterr().err
    config = json.loads((changed / "config.json").read_text())
    config[section][key] = value
    (changed / "config.json").write_text(json.dumps(config))
    assert main(arguments) == 0
    assert "done before" not in capsys.readouterr().err
    assert len(list((out / "trained").iterdir())) == 2
