"""`layergraft inspect`: what is this file?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from layergraft.config.encoder import shown_size
from layergraft.config.paths import expanded
from layergraft.encoders.adapt import norm_eps, num_heads
from layergraft.encoders.checkpoint import Checkpoint, open_checkpoint
from layergraft.graft.apply import count_parameters
from layergraft.runs.layout import last_stage
from layergraft.runs.readable import counted
from layergraft.training.cost import forward_flops


def inspect_checkpoint(checkpoint: str, as_json: bool) -> dict[str, Any]:
    """Describe an ENC; printed as a table or as JSON. See `layergraft.inspect`."""
    opened = open_checkpoint(checkpoint)
    encoder, layers = opened.encoder, count_parameters(opened.encoder.layers())
    description: dict[str, Any] = {
        "checkpoint": checkpoint,
        "format": opened.format,
        "encoders": list(opened.roles),
        "architecture": encoder.architecture,
        "model_args": encoder.model_args,
        "img_size": encoder.img_size,
        "in_chans": encoder.in_chans,
        "patch_size": encoder.patch_size,
        "embed_dim": encoder.embed_dim,
        "depth": encoder.depth,
        "num_heads": num_heads(encoder),
        "norm_eps": norm_eps(encoder),
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "feature": "class token" if encoder.feature_is_token else "mean of the patches",
        "parameters": sum(layers.values()),
        "gflop": forward_flops(encoder) / 1e9,
        "layers": [{"name": name, "parameters": count} for name, count in layers.items()],
        "heads": _heads(opened, last_stage(expanded(checkpoint.partition("?")[0]))),
        "classes": len(opened.classifier["weight"]) if "weight" in opened.classifier else None,
        "notes": [note.strip() for note in opened.notes],
    }
    if as_json:
        print(json.dumps(description))
    else:
        _show(description)
    return description


def _heads(opened: Checkpoint, path: Path) -> dict[str, int]:
    """Head -> numbers in it: of a foreign file, or those that a stage left beside its encoder."""
    sizes = {name: value.numel() for name, value in opened.heads.items()}
    if (path / "heads.safetensors").is_file():
        with safe_open(path / "heads.safetensors", "pt") as file:
            sizes = {name: file.get_tensor(name).numel() for name in file.keys()}  # noqa: SIM118 - not a dict
    heads: dict[str, int] = {}
    for name, count in sizes.items():
        parts = name.split(".")
        head = ".".join(parts[: 2 if parts[0] == "momentum" else 1])
        heads[head] = heads.get(head, 0) + count
    return heads


def _show(description: dict[str, Any]) -> None:
    console = Console()
    table = Table(title=f"{description['checkpoint']}: {description['format']}")
    table.add_column("layer")
    table.add_column("parameters", justify="right")
    for layer in description["layers"]:
        table.add_row(layer["name"], f"{layer['parameters']:,}")
    for head, count in description["heads"].items():
        table.add_row(f"heads.{head} (not in the sum)", f"{count:,}")
    table.add_section()
    table.add_row("encoder", f"{description['parameters']:,}")
    console.print(table)
    console.print(
        f"{counted(description['depth'], 'block')}, width {description['embed_dim']}, "
        f"{counted(description['num_heads'], 'head')}, patch {description['patch_size']}, "
        f"{shown_size(description['img_size'])} px, {counted(description['in_chans'], 'channel')}; "
        f"feature: {description['feature']}; {description['gflop']:.2f} GFLOP an image",
        soft_wrap=True,
    )
    if description["classes"]:
        console.print(f"It has a classifier of {counted(description['classes'], 'class')}.")
    for note in description["notes"]:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
