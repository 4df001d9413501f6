"""What a process runs on."""

import subprocess
import sys

import pytest
import torch

from layergraft.training.launch import ALONE, is_one_of_several, launch

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


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, False),  # a shell of salloc, or a batch script: none of its tasks runs yet
        ({"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"}, False),
        ({"WORLD_SIZE": "8"}, False),  # left by another program
        ({"WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "one"}, True),
        ({"WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "one"}, False),
    ],
)
def test_several_processes_are_those_that_were_started(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], several: bool
) -> None:
    for name in ("SLURM_NTASKS", "SLURM_STEP_ID", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_one_of_several() == several
