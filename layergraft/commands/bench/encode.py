"""Time an encoder that is used: images to features, at several batch sizes, precisions and ways to run it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from layergraft.commands.bench.step import wait
from layergraft.config.encoder import EncoderConfig
from layergraft.config.recipe import EngineConfig
from layergraft.encoders.checkpoint import load_encoder
from layergraft.encoders.onnx_file import missing_for_onnx, open_onnx, write_onnx
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError, out_of_memory
from layergraft.runs.heap import give_memory_back
from layergraft.training.cost import forward_flops
from layergraft.training.precision import attention_of

Runtime = Literal["eager", "compiled", "onnx"]
Precision = Literal["fp32", "bf16"]
Call = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to run the encoder on one batch.

    Args:
        runtime: `eager`, `compiled` as a whole by torch.compile, `onnx` by onnxruntime on the CPU.
        precision: `fp32`, or products in `bf16` (autocast).
        batch_size: images at a time.
        call: computes their features.
        memory_bytes: of the weights and the most that a batch took beside them; None where that is not known.
        difference: largest difference of the features from those of `eager`, `fp32`, as a part of their largest entry.
    """

    runtime: Runtime
    precision: Precision
    batch_size: int
    call: Call
    memory_bytes: int | None
    difference: float


def _encoder(name: str, img_size: int) -> Encoder:
    """An ENC, or fresh weights for a model name of timm."""
    if not Path(name).exists() and timm.is_model(name):
        return create_encoder(EncoderConfig(name=name, img_size=img_size), 0)
    return load_encoder(name)


def _calls(
    encoder: Encoder, images: Tensor, runtime: Runtime, precision: Precision, onnx: Path | None
) -> Callable[[], Call]:
    """What makes a call ready; with `onnx`, a session of its own, whose memory begins with nothing."""
    if runtime == "onnx":
        assert onnx is not None
        file = onnx
        return lambda: (lambda run: lambda: run(images))(open_onnx(file, torch.get_num_threads()))
    run = torch.compile(encoder, dynamic=False) if runtime == "compiled" else encoder
    bf16 = precision == "bf16"
    attention = attention_of(EngineConfig(precision="bf16-mixed" if bf16 else "32-true"), encoder, images.device)

    def call() -> Tensor:
        with attention(encoder), torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            features: Tensor = run(images)
            return features

    return lambda: call


def _resident(peak: bool = False) -> int | None:
    """Bytes of this process in memory, now or at most since `_forget_peak`; None where the system does not tell."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _forget_peak() -> bool:
    """Give freed memory back and let the peak begin anew; whether the system could."""
    if not give_memory_back():
        return False
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_of(call: Call, device: torch.device) -> tuple[Tensor, int | None]:
    """(result, most bytes that a call takes beside what was there; None where that is not known)."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        wait(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    known, start = _forget_peak(), _resident()
    result = call()
    most = _resident(peak=True)
    return result, most - start if known and start is not None and most is not None else None


def _cases(
    encoder: Encoder, batch_sizes: Sequence[int], runtimes: Sequence[Runtime], folder: Path, notes: list[str]
) -> list[Case]:
    """Every case that this machine can run, warmed up; the reasons of others go to `notes`."""
    device = encoder.device
    batches = _batches(encoder, batch_sizes, notes)
    weights = sum(parameter.nbytes for parameter in encoder.parameters())
    file = _onnx_file(encoder, folder, notes) if "onnx" in runtimes else None
    pairs: list[tuple[Runtime, Precision]] = []
    for runtime in runtimes:
        if runtime != "onnx":
            pairs += [(runtime, "fp32"), (runtime, "bf16")]
        elif file is not None:
            pairs.append((runtime, "fp32"))
    cases = []
    for runtime, precision in pairs:
        for size, (images, expected) in batches.items():
            try:
                make = _calls(encoder, images.cpu() if runtime == "onnx" else images, runtime, precision, file)
                if runtime != "onnx":
                    make()()  # compilers and libraries take memory of their own, once
                call = make()
                features, peak = _peak_of(call, torch.device("cpu") if runtime == "onnx" else device)
            except (RuntimeError, ImportError, OSError) as error:  # no compiler, no memory
                first = str(error).strip().partition("\n")[0]
                notes.append(f"{runtime}, {precision}, batch {size} is left out: {first}")
                continue
            wanted = expected.cpu()
            cases.append(
                Case(
                    runtime=runtime,
                    precision=precision,
                    batch_size=size,
                    call=call,
                    memory_bytes=None if peak is None else weights + peak,
                    difference=float((features.cpu().float() - wanted).abs().max() / wanted.abs().max()),
                )
            )
    return cases


def _batches(encoder: Encoder, batch_sizes: Sequence[int], notes: list[str]) -> dict[int, tuple[Tensor, Tensor]]:
    """Size -> (images of noise, their features), of the sizes for which there is memory; the others go to `notes`."""
    batches = {}
    for size in batch_sizes:
        generator = torch.Generator().manual_seed(0)
        try:
            images = torch.randn(size, encoder.in_chans, *encoder.input_size, generator=generator).to(encoder.device)
            batches[size] = images, encoder(images)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            notes.append(f"batch {size} is left out: there is not enough memory for it")
    return batches


def _onnx_file(encoder: Encoder, folder: Path, notes: list[str]) -> Path | None:
    if missing := missing_for_onnx():
        notes.append(f"onnx is left out: {', '.join(missing)} is not installed (pip install 'layergraft[onnx]')")
        return None
    path, device = folder / "encoder.onnx", encoder.device
    write_onnx(encoder.cpu(), torch.zeros(2, encoder.in_chans, *encoder.input_size), path, "features", {})
    encoder.to(device)
    if device.type != "cpu":
        notes.append("onnx runs on the CPU, the others on the GPU")
    return path


def _times(cases: Sequence[Case], seconds: float, device: torch.device) -> list[list[float]]:
    """Seconds of every call of each case. They take turns, so that a slow moment of the machine meets all of them."""
    times: list[list[float]] = [[] for _ in cases]
    began = time.perf_counter()
    while len(times[0]) < 3 or time.perf_counter() - began < seconds:
        for case, taken in zip(cases, times, strict=True):
            wait(device)
            start = time.perf_counter()
            case.call()
            wait(device)
            taken.append(time.perf_counter() - start)
    return times


def bench_encode(
    encoder_name: str,
    img_size: int,
    batch_sizes: Sequence[int],
    runtimes: Sequence[Runtime] | None,
    seconds: float,
    quiet: bool,
) -> dict[str, Any]:
    """Features of normalised images, nothing decoded; see `layergraft.bench`."""
    if min(batch_sizes) < 1:
        raise UserError("A batch has one image or more.", "For instance --batch-size 1 32.")
    encoder, notes = _encoder(encoder_name, img_size).eval().requires_grad_(False), list[str]()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.to(device)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        cases = _cases(encoder, batch_sizes, runtimes or ("eager", "compiled", "onnx"), Path(folder), notes)
        if not cases:
            raise UserError(
                f"Nothing could be timed: {'; '.join(notes)}.", "Give a smaller --batch-size, or --runtimes eager."
            )
        times = _times(cases, seconds, device)
    plain = {
        case.batch_size: float(np.median(taken))
        for case, taken in zip(cases, times, strict=True)
        if (case.runtime, case.precision) == ("eager", "fp32")
    }
    rows = [_row(case, taken, plain.get(case.batch_size)) for case, taken in zip(cases, times, strict=True)]
    figures: dict[str, Any] = {
        "encoder": encoder_name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "image": [encoder.in_chans, *encoder.input_size],
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "gflop_per_image": forward_flops(encoder) / 1e9,
        "cases": rows,
        "notes": notes,
    }
    if not quiet:
        _show(figures)
    print(json.dumps(figures))
    return figures


def _row(case: Case, taken: Sequence[float], plain: float | None) -> dict[str, Any]:
    median = float(np.median(taken))
    return {
        "runtime": case.runtime,
        "precision": case.precision,
        "batch_size": case.batch_size,
        "images_per_second": case.batch_size / median,
        "latency_ms": 1000 * median,
        "latency_p95_ms": 1000 * float(np.quantile(taken, 0.95)),
        "calls": len(taken),
        "ratio": None if plain is None else plain / median,
        "memory_bytes": case.memory_bytes,
        "difference": case.difference,
    }


def _show(figures: dict[str, Any]) -> None:
    table = Table(
        title=f"{figures['encoder']} on {figures['device']}, images of {' x '.join(map(str, figures['image']))}, "
        f"{figures['gflop_per_image']:.2f} GFLOP each"
    )
    for column in ("runtime", "bits", "batch", "images/s", "ratio", "ms", "95 % ms", "MiB", "differs"):
        table.add_column(column, justify="left" if column in ("runtime", "bits") else "right")
    for row in figures["cases"]:
        memory, ratio = row["memory_bytes"], row["ratio"]
        table.add_row(
            *(row["runtime"], row["precision"], str(row["batch_size"]), f"{row['images_per_second']:.1f}"),
            "" if ratio is None else f"{ratio:.2f}",
            *(f"{row['latency_ms']:.2f}", f"{row['latency_p95_ms']:.2f}"),
            "" if memory is None else f"{memory / 2**20:.0f}",
            f"{row['difference']:.0e}",
        )
    console = Console(stderr=True)
    console.print(table)
    for note in figures["notes"]:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
