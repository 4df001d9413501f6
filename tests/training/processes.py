"""Real processes that train, forked from one that has imported everything: a start costs a second, not ten."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import TINY

from layergraft.config import dump_recipe, load_recipe

MACHINERY = multiprocessing.get_context("forkserver")
# The last one is imported where there are several processes: each of them would take seconds for it.
MACHINERY.set_forkserver_preload(["layergraft.commands.train", "torch.distributed.tensor"])
VARYING = {"images_per_second", "data_wait", "time"}
SMALL = TINY | {"evaluate": None, "monitor.every": 0, "data.workers": 1, "engine.checkpoint_steps": 2}
Process = multiprocessing.process.BaseProcess
STDERR: dict[Process, Path] = {}


def _run(words: list[str], environment: dict[str, str], errors: Path, prepare: Callable[[], None] | None) -> None:
    os.environ.update(environment)
    sys.stderr = open(errors, "a", buffering=1)  # noqa: SIM115 - for as long as the process lives
    import torch

    torch.set_num_threads(1)
    from layergraft.commands.cli import main

    if prepare is not None:
        prepare()
    code = main(words)
    sys.stderr.flush()
    os._exit(code)


def start(
    words: list[str],
    errors: Path,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
    command: str = "train",
) -> Process:
    """Start `layergraft COMMAND WORDS`.

    Args:
        words: the command line behind the command.
        errors: where stderr is appended.
        environment: added to this process's.
        prepare: a function of a test module, called in the new process first (to inject a fault).
        command: which.
    """
    process = MACHINERY.Process(
        target=_run, args=([command, *words], dict(environment or {}), errors, prepare), daemon=True
    )
    process.start()
    STDERR[process] = errors
    return process


def free_port() -> int:
    """A port that nothing listens at: none of those that the system gives to connections, from 32768 on, meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def start_group(
    words: list[str], errors: Path, world: int, prepare: Callable[[], None] | None = None, command: str = "train"
) -> list[Process]:
    """The same command in several processes, as torchrun starts them."""
    port = free_port()
    shared = {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0",
    }
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    return [start(words, errors, shared | ranks, prepare, command) for ranks in own]


def finish(*processes: Process, seconds: float = 900, patience: float = 120) -> list[int | None]:
    """Exit codes; what they said on stderr is printed, which a failed test shows.

    Args:
        processes: which to wait for; what does not end in time is killed, and has None.
        seconds: for all of them.
        patience: seconds for the others once one has failed.
    """
    end = time.monotonic() + seconds
    while (alive := [process for process in processes if process.is_alive()]) and time.monotonic() < end:
        if any(process.exitcode for process in processes):
            end = min(end, time.monotonic() + patience)
            patience = seconds  # from the first failure on
        multiprocessing.connection.wait([process.sentinel for process in alive], timeout=min(1, patience))
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.is_alive():
            process.kill()
    for file in dict.fromkeys(STDERR[process] for process in processes):
        print(f"{codes} {file}:\n{file.read_text() if file.exists() else ''}")
    return codes


def write_recipe(path: Path, changes: Mapping[str, Any] | None = None) -> list[str]:
    """A small recipe as a file; the words that train it."""
    path.write_text(dump_recipe(load_recipe("fashion_paper", SMALL | dict(changes or {}))))
    return ["--recipe", str(path)]


@contextmanager
def running(*processes: Process) -> Iterator[None]:
    """Nothing outlives a test."""
    try:
        yield
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()


def wait_for(condition: Callable[[], bool], *processes: Process, seconds: float = 600) -> bool:
    """Until a condition holds; False where the processes ended first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(process.is_alive() for process in processes):
        if condition():
            return True
        time.sleep(0.001)
    return False


def descendants(pid: int) -> list[int]:
    """A process and all that it started."""
    children = {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == pid}
    return [pid, *(other for child in children for other in descendants(child))]


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def bits(run: Path) -> dict[str, bytes]:
    """Every tensor file of a run."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*.safetensors"))}


def rows(run: Path) -> list[dict[str, Any]]:
    """All lines of metrics, but for what depends on the clock."""
    lines = [line for path in sorted(run.glob("stages/*/metrics.jsonl")) for line in path.read_text().splitlines()]
    return [{key: value for key, value in json.loads(line).items() if key not in VARYING} for line in lines]
