"""What `predict` promises, measured on the demo's encoder as the docs say it: tools/measure_predict.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from layergraft.data.sources.open import open_source
from layergraft.runs.layout import Run

SCRIPT = Path(__file__).parents[2] / "tools" / "measure_predict.py"
DRAWS = 20


@pytest.mark.slow
def test_probabilities_and_sets_keep_their_promise(demo: Run) -> None:
    """The calibration error is at most half of any uncalibrated one's; sets at 90 % hold the class in 88 to 92 %."""
    spec = importlib.util.spec_from_file_location("measure_predict", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found = script.measure(str(demo.encoder), open_source("builtin:fashion-canvas:test"), DRAWS)
    means = {
        number: {name: np.nanmean([draw[name] for draw in draws]) for name in draws[0]}
        for number, draws in found.items()
    }
    for number in (30, 100):
        for uncalibrated in script.UNCALIBRATED:
            assert means[number]["ece"] <= 0.5 * means[number][uncalibrated], (number, uncalibrated)
    assert 0.88 <= means[100]["coverage"] <= 0.92
