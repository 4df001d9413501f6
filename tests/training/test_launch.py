"""What a process runs on."""

import pytest
import torch

from layergraft.training.launch import ALONE, is_one_of_several, launch
from layergraft.training.started import Start, first_node, start_of_srun, start_of_torchrun


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


def test_what_torchrun_and_srun_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    slurm = {"PROCID": "5", "NTASKS": "8", "LOCALID": "1", "NNODES": "2", "NODELIST": "gpu[03,07]", "JOB_ID": "1234567"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    ranks = {"rank": 5, "world_size": 8, "local_rank": 1, "local_size": 4}
    assert start_of_srun() == Start(**ranks, address="gpu03", port=19567)
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in (torchrun | {"MASTER_ADDR": "head", "MASTER_PORT": "29"}).items():
        monkeypatch.setenv(name, value)
    assert start_of_torchrun() == Start(**ranks, address="head", port=29)
    assert (start_of_srun().address, start_of_srun().port) == ("head", 29)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("one", "one"),
        ("a1,b2", "a1"),
        ("gpu[03-05,9],cpu1", "gpu03"),
        ("gpu[7,9-11]", "gpu7"),
        ("r[0-3]n[4-7]", "r0n4"),
        ("10.0.0.1 10.0.0.2", "10.0.0.1"),
    ],
)
def test_the_first_of_slurms_nodes(nodes: str, first: str) -> None:
    assert first_node(nodes) == first
