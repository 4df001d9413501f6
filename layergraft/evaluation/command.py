"""`layergraft evaluate`: any encoder on any labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from layergraft.checkpoints.encoder import encoder_directory, load_encoder
from layergraft.config.loading import parse_value
from layergraft.config.recipe import EvaluateConfig
from layergraft.data.sources import default_test_source, open_source
from layergraft.errors import UserError
from layergraft.evaluation.evaluate import Task, evaluate_encoders
from layergraft.evaluation.results import ResultRow, show_results, write_results


def evaluate_command(
    *, encoder: str, data: str, test: str | None, changes: dict[str, Any], out: Path | None
) -> list[ResultRow]:
    """Measure one encoder and the pixels; see `layergraft.evaluate`."""
    given = {key: value for key, value in changes.items() if value is not None}
    if "shots" in given:
        given["shots"] = [parse_value(str(shots)) for shots in given["shots"]]
    try:
        config = msgspec.convert(given, EvaluateConfig)
    except msgspec.ValidationError as error:
        raise UserError(f"evaluate: {error}.") from None
    loaded = load_encoder(encoder)
    source = open_source(data)
    spec = test or default_test_source(data)
    if spec is None:
        raise UserError(f"{data!r} has no test images beside it.", "Give them with --test.")
    task = Task(train=source, test=open_source(spec), test_name=spec, seed=0)
    rows = evaluate_encoders(task, config, {encoder: loaded})
    if out is None and encoder_directory(Path(encoder)) is not None:
        out = Path(encoder)
    if out is not None:
        write_results(out / "results.json", rows)
    show_results(rows)
    return rows
