"""MODEL_CARD.md beside an encoder: what it is, how it was made and measured, from its run."""

from __future__ import annotations

from pathlib import Path

from layergraft.config.encoder import shown_size
from layergraft.runs.atomic import write_text
from layergraft.runs.readable import counted
from layergraft.runs.report.run_files import RunFiles, read_run
from layergraft.runs.report.section import Table
from layergraft.runs.report.sections.results import accuracy_tables, named_results
from layergraft.runs.report.sections.warnings import run_warnings
from layergraft.runs.result_tables import group_by_images

# How each format of `layergraft export` is read.
MODEL_CARD = "MODEL_CARD.md"
USE = {
    "timm": 'import timm\n\nencoder = timm.create_model("local-dir:PATH", pretrained=True).eval()',
    "hf": 'from transformers import ViTModel\n\nencoder = ViTModel.from_pretrained("PATH").eval()',
    "onnx": 'import onnxruntime\n\nencoder = onnxruntime.InferenceSession("PATH")',
    "torch_export": 'import torch\n\nencoder = torch.export.load("PATH").module()',
    "layergraft": 'import layergraft\n\nencoder = layergraft.load_encoder("PATH")',
}


def _cell(text: str) -> str:
    """Text that stays text in a Markdown table."""
    for mark, written in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("\n", " "), ("`", "\\`")):
        text = text.replace(mark, written)
    return text


def _table(table: Table) -> str:
    head = [f"| {' | '.join(_cell(c) or ' ' for c in table.columns)} |", "|---" * len(table.columns) + "|"]
    return "\n".join([*head, *(f"| {' | '.join(_cell(c) for c in row)} |" for row in table.rows)])


def model_card(run: RunFiles, encoder_format: str = "timm", stage_name: str | None = None) -> str:
    """The card as Markdown.

    Args:
        run: the encoder's run.
        encoder_format: a key of `USE`.
        stage_name: the stage that the encoder is the result of; None is the last.
    """
    assert run.recipe is not None
    recipe, data = run.recipe, run.summary.get("data", {})
    encoder = recipe.encoder
    if encoder.stem == "conv" and encoder_format == "timm":  # timm has no such ViT
        encoder_format = "layergraft"
    shape = [f"timm `{encoder.name}`", f"{shown_size(encoder.img_size)} px", f"{counted(encoder.in_chans, 'channel')}"]
    shape += ["convolutional stem"] if encoder.stem == "conv" else []
    shape += [f"patch {encoder.patch_size}"] if encoder.patch_size else []
    shape += [f"width {encoder.embed_dim}"] if encoder.embed_dim else []
    shape += [f"depth {encoder.depth}"] if encoder.depth else []
    stages = []
    for number, stage in enumerate(run.stages, start=1):
        frozen = ", ".join(row["name"] for row in stage["layers"] if row["frozen"])
        lengths = [counted(stage["epochs"], "epoch"), counted(stage["steps"], "step")]
        batch = counted(stage["batch_size"], "image")
        stages.append(
            f"{number}. **{stage['name']}**: {stage['objective']}, {', '.join(lengths)} of {batch}; "
            f"frozen: {frozen or 'nothing'}"
        )
    trained, held = data.get("train"), data.get("holdout")
    counts = f", {trained:,} images trained and {held:,} were held out" if trained is not None else ""
    tables = accuracy_tables(group_by_images(named_results([run])))
    machine = run.summary.get("machine", {})
    made = f"{machine['cpu']}{', ' + machine['gpu'] if machine['gpu'] else ''}" if machine else "an unknown machine"
    parts = [
        f"# {_cell(run.name)}",
        "A Vision Transformer encoder pre-trained without labels by [layergraft](https://arxiv.org/abs/2302.14138).",
        "## Use",
        f"```python\n{USE[encoder_format]}\n```",
        f"Input: {', '.join(shape)}; pixels in [0, 1], then normalised as in training. Output: a feature per image.",
        "## Training",
        "\n".join(stages),
        *([f"This is the encoder after stage **{stage_name}**."] if stage_name else []),
        f"Images: `{recipe.data.source}`{counts}. Seed {recipe.seed}. Started from "
        f"{f'`{recipe.start}`' if recipe.start else 'fresh weights'}. Made on {made}.",
        "## Measured",
        *(f"{_table(table)}\n\n{_cell(table.note)}" for table in tables),
        *([] if tables else ["Nothing was measured."]),
    ]
    if tables:
        protocol = (
            "Top-1 in percent, frozen features of the test view: mean ± standard deviation over random splits (95 % "
            "interval, for the test images and the splits). Logistic regression without intercept on row-centred, "
            "L2-normalised features; kNN: cosine, k = 20. `pixels` and `random` are the floors."
        )
        parts.append(protocol)
    limits = [
        *run_warnings(run),
        "The features reflect the images it was trained on; measure them on yours before you rely on them.",
    ]
    parts += ["## Limits", "\n".join(f"- {_cell(line)}" for line in limits)]
    return "\n\n".join(parts) + "\n"


def write_model_card(run: Path, out: Path, encoder_format: str = "timm", stage_name: str | None = None) -> None:
    """Write the model card into an encoder's directory, or beside its file.

    Args:
        run: the run's directory; where it is none, nothing is written.
        out: the encoder's directory or file; beside a file, a card that is there already is left alone.
        encoder_format: as in `model_card`.
        stage_name: likewise.
    """
    card = (out if out.is_dir() else out.parent) / MODEL_CARD
    if (run / "recipe.yaml").is_file() and (out.is_dir() or not card.exists()):
        write_text(card, model_card(read_run(run), encoder_format, stage_name))
