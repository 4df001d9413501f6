"""A real Slurm of one node: submit, requeue on SIGUSR1, finish."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY

from layergraft.config import dump_recipe, load_recipe

MISSING = [name for name in ("slurmctld", "slurmd", "munged", "sbatch", "srun") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed here: no {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemons of Slurm need root"),
]
CLUSTER = Path(__file__).with_name("cluster.sh")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "slurm"
    started = subprocess.run([CLUSTER, "start", folder], capture_output=True, text=True, check=False)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    assert started.returncode == 0, started.stderr
    yield folder
    subprocess.run([CLUSTER, "stop", folder], check=False)


def job(number: str) -> dict[str, str]:
    text = subprocess.run(["scontrol", "--oneliner", "show", "job", number], capture_output=True, text=True, check=True)
    return dict(word.split("=", 1) for word in text.stdout.split() if "=" in word)


def wait(what: str, seconds: float, condition: object, log: Path) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, f"no {what}:\n{log.read_text() if log.exists() else 'no log'}"
        time.sleep(0.2)


def test_a_job_requeues_itself_and_finishes(cluster: Path, tmp_path: Path) -> None:
    changes = TINY | {"evaluate": None, "monitor.every": 0, "stages.mae.epochs": 40, "data.workers": 1, "analyze": []}
    recipe, out, log = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "log"
    recipe.write_text(dump_recipe(load_recipe("fashion_paper", changes)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = tmp_path / "job.sbatch"
    script.write_text(
        "#!/bin/bash\n#SBATCH --nodes=1 --ntasks-per-node=2 --requeue --open-mode=append --time=40\n"
        f"#SBATCH --output={log} --chdir={tmp_path}\n"
        f"export OMP_NUM_THREADS=1 MASTER_PORT={port}\n"
        f"srun {sys.executable} -m layergraft train --recipe {recipe} --out {out}\n"
    )
    submitted = subprocess.run(["sbatch", "--parsable", script], capture_output=True, text=True, check=True)
    number = submitted.stdout.strip()
    metrics = out / "stages" / "0-mae" / "metrics.jsonl"
    wait("first steps", 600, lambda: metrics.is_file() and metrics.read_text().count("\n") > 5, log)
    subprocess.run(["scancel", "--signal=USR1", number], check=True)
    wait("requeue", 300, lambda: job(number).get("Restarts") == "1", log)
    wait("end", 1200, lambda: job(number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED"), log)
    text = log.read_text()
    assert job(number)["JobState"] == "COMPLETED", text
    assert f"Job {number} is back in the queue." in text
    assert "Stage mae goes on at step" in text
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 40 * 8 + 1))
    assert (out / "run.json").is_file()
