"""What a process runs on."""

import subprocess
import sys

import torch

from layergraft.training.launch import ALONE, launch

ASKED = """
import sys
import layergraft.commands.own_recipe, layergraft.commands.train
from layergraft.training.launch import launch
assert launch().is_first
print([name for name in sys.modules if name.partition(".")[0] in ("lightning_fabric", "torchmetrics")])
"""


def test_a_process_that_is_alone_waits_for_no_library_of_several() -> None:
    said = subprocess.run([sys.executable, "-c", ASKED], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "[]"


def test_alone_it_is_the_first_of_one() -> None:
    process = launch()
    assert (process.rank, process.world_size) == (ALONE.rank, ALONE.world_size) == (0, 1)
    assert process.device.type == ("cuda" if torch.cuda.is_available() else process.device.type)
    assert process.to_device(torch.ones(1)).device == process.device
