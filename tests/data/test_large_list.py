"""A list of ten million lines: how soon the first batch is there, and how much memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

FILES, LINES, BATCHES = 1_000, 10_000_000, 1_000
# A process of its own, as memory that an earlier test left would count. It reports MiB after some of the batches.
PROGRAM = """
import json, sys, time
from pathlib import Path
from layergraft.config.objectives import MocoConfig
from layergraft.data.loader import TrainLoader
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.open import open_source
from layergraft.data.randomness import Randomness

def memory():
    lines = [line.split() for line in open("/proc/self/smaps_rollup")]
    sizes = {line[0]: int(line[1]) / 1024 for line in lines if line[-1] == "kB"}
    return {"anonymous": sizes["Anonymous:"], "own": sizes["Private_Clean:"] + sizes["Private_Dirty:"]}

spec, index, workers, batches = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
began = time.perf_counter()
loader = TrainLoader(
    open_source(spec, index), MocoConfig().views, size=36, channels=3, batch_size=8, workers=workers,
    random=Randomness(seed=0, scope="large"), skipped=SkippedImages(0),
)
found = {"images": len(loader.source), "memory": []}
for step, _ in enumerate(loader.batches(0, batches)):
    if step == 0:
        found["first"] = time.perf_counter() - began
    if step in (9, batches - 1):
        found["memory"].append(memory())
print(json.dumps(found))
"""


def measure(source: Path, index: Path, workers: int) -> dict[str, Any]:
    command = [sys.executable, "-c", PROGRAM, str(source), str(index), str(workers), str(BATCHES)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(source.name, workers, found)
    return found


@pytest.mark.slow
def test_ten_million_lines_start_quickly_and_cost_nothing_per_worker(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    for number in range(FILES):
        pixels = generator.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"an image {number:06d}.jpg"), pixels)
    block = "".join(f"images/an image {number:06d}.jpg class{number % 100}\n" for number in range(FILES))
    small, large, index = tmp_path / "small.txt", tmp_path / "large.txt", tmp_path / "index"
    small.write_text(block)
    with large.open("w") as file:
        for _ in range(LINES // FILES):
            file.write(block)

    new, known = measure(large, index, 4), measure(large, index, 4)
    few, alone, few_alone = measure(small, index, 4), measure(large, index, 0), measure(small, index, 0)
    assert new["images"] == LINES
    assert few["images"] == FILES
    # Without Python's imports, which take the same time for any source.
    assert new["first"] < 15
    assert known["first"] < 5
    for found in (new, known):
        early, late = found["memory"]
        assert late["anonymous"] < 1500
        assert late["anonymous"] - early["anonymous"] < 10  # flat over a thousand batches

    def workers(four: dict[str, Any], none: dict[str, Any]) -> float:
        """What four workers add to the memory of the process that they share, in MiB."""
        return four["memory"][-1]["own"] - none["memory"][-1]["own"]

    assert workers(known, alone) - workers(few, few_alone) < 4 * 50
    # All that ten million entries add to the process, workers and all.
    assert known["memory"][-1]["own"] - few["memory"][-1]["own"] < 500
