"""Every method picks from 100,000 images within the memory of their features and 1 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import get_args

import pytest

from layergraft.evaluation.picking.methods import Method

IMAGES, WIDTH, NUMBER = 100_000, 384, 100
PICK = """
import json, resource, sys, threading, time
import numpy as np, torch
from layergraft.commands.bench.logistic import features_like_an_encoders
from layergraft.evaluation.picking.methods import pick_rows

torch.set_num_threads(2)
method, images, width, number = sys.argv[1], *map(int, sys.argv[2:])
features, labels = features_like_an_encoders(images, width, 10)
known = np.arange(20)
pick_rows(features[:500], 15, method, known, labels[known])  # libraries are no part of it
page = resource.getpagesize()
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * page
before, most, ended = resident(), [0], threading.Event()

def watch():
    while not ended.wait(0.005):
        most[0] = max(most[0], resident())

watching = threading.Thread(target=watch)
watching.start()
began = time.process_time()
picked = pick_rows(features, number, method, known, labels[known])
seconds = time.process_time() - began
ended.set()
watching.join()
print(json.dumps({"picked": picked.tolist(), "more": most[0] - before, "seconds": seconds}))
"""


@pytest.mark.soak
@pytest.mark.parametrize("method", get_args(Method))
def test_memory_of_a_hundred_thousand_images(method: str) -> None:
    """The features are there before; what comes on top of them is below 1 GB."""
    words = [sys.executable, "-c", PICK, method, *map(str, (IMAGES, WIDTH, NUMBER))]
    found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    print(f"{method}: {found['seconds']:.0f} s of processor time, {found['more'] / 2**20:.0f} MiB besides the features")
    assert len(set(found["picked"])) == NUMBER
    assert not set(found["picked"]) & set(range(20))
    assert found["more"] < 1e9
