"""Check on one CUDA GPU what the tests cannot check without one, in under 8 minutes.

    python tools/check_gpu.py                        # exit code 0 if all hold, 1 if one does not, 2 without a GPU
    python tools/check_gpu.py --device cpu --tiny    # tries the script itself: small networks, no verdict on a GPU
    python tools/check_gpu.py --only resume memory

Prints the table for docs/engine.md and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

# Children import the package from this checkout, wherever they run.
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

LOSS_TOLERANCE = 0.02  # of each step's loss, bf16 and compiled against fp32
MEMORY_TOLERANCE = 0.15
PIXEL_TOLERANCE = 2.0  # grey levels: a rounding that falls the other way, before the blur and after it
VIT_SMALL = {"name": "vit_small_patch16_224", "img_size": 224}
VIT_TINY = {
    "name": "vit_tiny_patch16_224",
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 3,  # the recipe's plan is in thirds
    "num_heads": 2,
}
SMALL_HEADS = {
    "stages.mae.objective.decoder": {"embed_dim": 32, "depth": 1, "num_heads": 2},
    "stages.graft.objective.projector": [64, 64, 32],
    "stages.graft.objective.predictor": [64, 32],
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the checks are.

    Args:
        encoder: the encoder's configuration.
        heads: changes to the recipe's heads.
        images: of the batch whose views are compared.
        batch: images of a step.
        loss_steps: steps whose losses are compared.
        seconds: how long training is timed.
    """

    encoder: dict[str, Any]
    heads: dict[str, Any]
    images: int
    batch: int
    loss_steps: int
    seconds: float


FULL = Size(encoder=VIT_SMALL, heads={}, images=256, batch=256, loss_steps=20, seconds=20)
TINY = Size(encoder=VIT_TINY, heads=SMALL_HEADS, images=8, batch=8, loss_steps=3, seconds=0.5)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measured thing.

    Args:
        check: which check it belongs to.
        what: what was measured.
        value: what came out, for people.
        holds: whether it is within its tolerance; None where there is nothing to judge.
    """

    check: str
    what: str
    value: str
    holds: bool | None


def trainer_of(stage: str, size: Size, **changes: Any) -> Any:
    """A trainer of a stage of `vit_base_imagenet` with another encoder, on built-in images, before its first step."""
    import msgspec

    from layergraft.config.loading import load_recipe
    from layergraft.graft.donors import first_encoder
    from layergraft.training.launch import launch
    from layergraft.training.run_data import load_data
    from layergraft.training.stage import prepare_stage
    from layergraft.training.trainer import Trainer

    settings = {
        "data.source": "builtin:fashion-colour",
        "encoder": size.encoder,
        "monitor.every": 0,
        "stages.mae.batch_size": size.batch,
        "stages.graft.batch_size": size.batch,
        **size.heads,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    recipe = load_recipe("vit_base_imagenet", settings)
    recipe = msgspec.structs.replace(recipe, stages={stage: recipe.stages[stage]})
    data = load_data(recipe)
    process = launch()
    encoder = first_encoder(recipe, data.mean, data.std)
    prepared = prepare_stage(recipe, stage, Path("."), encoder, data, process)
    trainer = Trainer(process, prepared)
    trainer.begin()
    return trainer


def clear() -> None:
    """Give back what a check left on the GPU, compiled code included."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    torch.compiler.reset()


def wait() -> None:
    """Until the GPU has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def check_pixels(size: Size) -> list[Line]:
    """Colour, blur and solarisation of the same views on the GPU and on the CPU, in grey levels."""
    large = replace(size, batch=size.images)
    trainer = trainer_of("graft", large, data__augment_on="device")
    batch = next(trainer.batches())
    lines = []
    for name, deferred in batch.unfinished.items():
        pixels = batch.views[name]
        here = deferred(pixels)
        there = deferred(trainer.to_device(pixels)).cpu()
        apart = (here - there).abs()
        largest, share = float(apart.max()), float((apart > 0).float().mean())
        value = f"at most {largest:.0f} grey levels; {100 * share:.4f} % of the values differ"
        lines.append(Line(check="pixels", what=f"view `{name}`", value=value, holds=largest <= PIXEL_TOLERANCE))
    if not lines:
        lines.append(Line(check="pixels", what="views", value="none was left to the device", holds=False))
    return lines


# Trains two short stages in a process of its own, which sends itself a signal at a step of a stage, if asked.
CHILD = """
import os, signal, sys
import layergraft
from layergraft.errors import Stopped
from layergraft.training.trainer import Trainer
out, precision, stage, step, name = sys.argv[1:]
accept = Trainer.accept
def accept_and_stop(self, outcome):
    accept(self, outcome)
    if (self.stage.name, self.step) == (stage, int(step)):
        os.kill(os.getpid(), getattr(signal, name))
Trainer.accept = accept_and_stop
try:
    layergraft.train(
        recipe="fashion_paper",
        data="builtin:fashion-canvas?fraction=0.05&seed=0",
        out=out,
        overrides={
            "stages.mae.epochs": 4, "stages.graft.epochs": 1, "monitor.every": 0, "evaluate": None, "analyze": [],
            "engine.precision": precision, "engine.log_every": 1, "engine.checkpoint_steps": 2,
        },
    )
except Stopped:
    sys.exit(75)
"""


def train_in_child(out: Path, precision: str, stage: str = "", step: int = 0, signal: str = "SIGTERM") -> int:
    """Train, or go on, in another process; its exit code."""
    command = [sys.executable, "-c", CHILD, str(out), precision, stage, str(step), signal]
    done = subprocess.run(command, cwd=out.parent, capture_output=True, text=True)  # noqa: S603
    if done.returncode not in (0, 75, -9):
        raise RuntimeError(f"training ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.returncode


def numbers_of(out: Path) -> dict[str, Any]:
    """What a run leaves, without times: rows of the metrics and the weights."""
    import hashlib

    timed = ("images_per_second", "data_wait", "seconds", "memory_bytes", "peak_memory", "time")
    kept: dict[str, Any] = {}
    for file in sorted(out.glob("stages/*/metrics.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        kept[f"{file.parent.name} metrics"] = [{k: v for k, v in row.items() if k not in timed} for row in rows]
    for file in sorted(out.glob("stages/*/encoder/model.safetensors")):
        kept[f"{file.parents[1].name} weights"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return kept


def check_resume(size: Size) -> list[Line]:
    """A run stopped in one stage and killed in the next leaves the same bits as one that was left alone."""
    lines = []
    for precision in ("32-true", "bf16-mixed") if size is FULL else ("32-true",):
        with tempfile.TemporaryDirectory() as folder:
            whole, parts, again = (Path(folder) / name for name in ("whole", "parts", "again"))
            train_in_child(whole, precision)
            codes = [
                train_in_child(parts, precision, "mae", 5, "SIGTERM"),
                train_in_child(parts, precision, "graft", 3, "SIGKILL"),
                train_in_child(parts, precision),
            ]
            if codes != [75, -9, 0]:
                raise RuntimeError(f"exit codes {codes} instead of 75, -9, 0")
            expected, resumed = numbers_of(whole), numbers_of(parts)
            different = [key for key in expected if expected[key] != resumed.get(key)]
            value = f"{len(expected)} files equal in every bit" if not different else f"differ: {', '.join(different)}"
            if different:  # is it the resume, or does this GPU not repeat itself?
                train_in_child(again, precision)
                repeats = numbers_of(again) == expected
                value += "; an undisturbed run " + ("repeats itself" if repeats else "does not repeat itself either")
            what = f"stopped, killed, gone on with; {precision}"
            lines.append(Line(check="resume", what=what, value=value, holds=bool(expected) and not different))
    return lines


def losses_of(stage: str, size: Size, **changes: Any) -> list[float]:
    """Losses of the first steps of a stage."""
    trainer = trainer_of(stage, size, **changes)
    losses = []
    for _, batch in zip(range(size.loss_steps), trainer.batches(), strict=False):
        outcome = trainer.compute(batch)
        losses.append(float(outcome.losses["loss"]))
        trainer.accept(outcome)
    return losses


def check_losses(size: Size) -> list[Line]:
    """Losses in bf16 with compiled blocks against fp32, from the same weights on the same images."""
    lines = []
    for stage in ("mae", "graft"):
        plain = losses_of(stage, size, engine__precision="32-true")
        clear()
        fast = losses_of(stage, size, engine__precision="bf16-mixed", engine__compile=True)
        clear()
        apart = max(abs(a - b) / abs(a) for a, b in zip(plain, fast, strict=True))
        value = (
            f"at most {100 * apart:.3f} % apart over {len(plain)} steps; the last {plain[-1]:.4f} and {fast[-1]:.4f}"
        )
        what = f"`{stage}`, bf16-mixed and compiled against fp32"
        lines.append(Line(check="losses", what=what, value=value, holds=apart <= LOSS_TOLERANCE))
    return lines


def check_memory(size: Size) -> list[Line]:
    """The estimate of a step's memory against the highest that the GPU has given out."""
    import torch

    from layergraft.training.memory import step_memory

    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "`mae`, bf16-mixed": ("mae", {}),
        "`mae`, 32-true": ("mae", {"engine__precision": "32-true"}),
        "`graft`, bf16-mixed": ("graft", {}),
        "`graft`, with activation checkpointing": ("graft", {"engine__activation_checkpointing": True}),
        "`graft`, in micro-batches": ("graft", {"engine__micro_batch": max(2, size.batch // 4)}),
    }
    lines = []
    for what, (stage, changes) in cases.items():
        clear()
        on_gpu = torch.cuda.is_available()
        before = torch.cuda.memory_allocated() if on_gpu else 0
        trainer = trainer_of(stage, size, **changes)
        run = trainer.stage
        expected = step_memory(run.encoder, run.objective, run.plan, run.config, run.engine, trainer.device)
        batch = next(trainer.batches())
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            trainer.accept(trainer.compute(batch))
        wait()
        value, holds = f"estimated {expected / 2**30:.3f} GiB", None
        if on_gpu:
            measured = torch.cuda.max_memory_allocated() - before
            value += f", measured {measured / 2**30:.3f} GiB ({100 * (expected / measured - 1):+.1f} %)"
            holds = abs(expected / measured - 1) <= MEMORY_TOLERANCE
        lines.append(Line(check="memory", what=f"{what}, batch {size.batch}", value=value, holds=holds))
        del trainer, run, batch
    return lines


def rate(step: Callable[[], object], images: int, seconds: float) -> float:
    """Images a second of a step, after three that do not count."""
    for _ in range(3):
        step()
    wait()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or steps < 2:
        step()
        steps += 1
        wait()
    return steps * images / (time.perf_counter() - began)


def check_speed(size: Size) -> list[Line]:
    """Training of MoCo v3 on two views: the step alone, on a batch that lies ready, and with the loader before it."""
    lines = []
    for compiled in (False, True) if size is FULL else (False,):
        clear()
        trainer = trainer_of("graft", size, engine__compile=compiled)
        batches = trainer.batches()
        ready = next(batches)

        def step(trainer: Any = trainer, ready: Any = ready) -> None:
            trainer.accept(trainer.compute(ready))

        def loaded(trainer: Any = trainer, batches: Any = batches) -> None:
            trainer.accept(trainer.compute(next(batches)))

        name = f"{size.encoder['name']}, bf16-mixed, batch {size.batch}" + (", compiled" if compiled else "")
        alone = rate(step, size.batch, size.seconds)
        lines.append(Line(check="speed", what=f"{name}: the step", value=f"{alone:.0f} images/s", holds=None))
        if not compiled:
            whole = rate(loaded, size.batch, size.seconds)
            value = f"{whole:.0f} images/s on {os.cpu_count()} CPU cores"
            lines.append(Line(check="speed", what=f"{name}: with the loader", value=value, holds=None))
        batches.close()
        del trainer, batches, ready, step, loaded
    return lines


CHECKS: dict[str, Callable[[Size], list[Line]]] = {
    "pixels": check_pixels,
    "resume": check_resume,
    "losses": check_losses,
    "memory": check_memory,
    "speed": check_speed,
}


def show(lines: list[Line]) -> None:
    """Print the table of docs/engine.md."""
    verdicts = {True: "holds", False: "**does not hold**", None: ""}
    print("| check | what | measured | |\n|---|---|---|---|")
    for line in lines:
        print(f"| {line.check} | {line.what} | {line.value} | {verdicts[line.holds]} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the script")
    parser.add_argument("--only", nargs="+", choices=tuple(CHECKS), default=tuple(CHECKS))
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for one
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA GPU. `--device cpu --tiny` tries the script itself.", file=sys.stderr)
        return 2
    size = TINY if arguments.tiny else FULL
    lines: list[Line] = []
    for name in arguments.only:
        began = time.perf_counter()
        try:
            lines += CHECKS[name](size)
        except Exception as error:  # the other checks are worth their minutes
            traceback.print_exc()
            lines.append(
                Line(check=name, what="could not be carried out", value=" ".join(f"{error}".split())[:200], holds=False)
            )
        clear()
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    show(lines)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    held = all(line.holds is not False for line in lines)
    result = {"device": device, "torch": str(torch.__version__), "tiny": arguments.tiny, "held": held}
    print(json.dumps(result | {"lines": [asdict(line) for line in lines]}))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
