"""How the processes that are started together find each other, with a place to stop all the while.

torch's own way waits in C++, which takes no signal, for 30 minutes. And torchrun keeps one store over all restarts, in
which gloo leaves the addresses of its processes: after a restart, a process that is quicker than its peers would read
where they listened before, and be refused; the peers would wait for it. So all meet in the store first, and each start
of the group keeps what it says under a name of its own.

The name is needed with torch 2.14 and gloo, under torchrun with restarts. There, `torch.distributed.rendezvous` says
"We create a new TCPStore for every retry", but what it creates is another client of the agent's one store.
TORCHELASTIC_RESTART_COUNT is no such name: each agent counts its own failures, so nodes disagree, and a restart for a
changed membership is not counted. TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is read by torchrun itself, before this
program starts: only the user could set it.
"""

from __future__ import annotations

import atexit
import os
import socket
import time
import uuid
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed's, with their types

from layergraft.errors import Lost, Stopped
from layergraft.runs.interruption import check
from layergraft.training.started import Start

_START = "layergraft/start"
_BEGUN, _GONE = b"begun", b"gone"
_EXCHANGE = timedelta(minutes=30)  # for which a process waits for another one in an exchange
_WORK = timedelta(days=100)  # for which it waits for one that works alone; one that is gone is seen at once
_MEETING = timedelta(minutes=10)  # for which it waits for the others to come
_PAUSE, _TRY = 0.05, 2.0  # seconds
_GOODBYE = 10.0  # seconds for which a process that is told to stop looks for the others, to tell them

_patient: list[Any] = []  # one, once the processes of a start have met here


def tell_all(word: object) -> list[Any]:
    """What each process says, in order of rank; all call, and wait for those that still work alone.

    Args:
        word: of this process; anything that can be pickled.
    """
    words: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(words, word, group=_patient[0] if _patient else None)
    return words


def join(start: Start, device: torch.device) -> None:
    """Make the process group of this start, unless it is made.

    Args:
        start: says which process this is, and where the others are met.
        device: of this process.

    Raises:
        Stopped: a signal came.
        Lost: the others did not come, or one that had come is gone.
    """
    if dist.is_initialized():
        return
    rank, world = start.rank, start.world_size
    end = time.monotonic() + _MEETING.total_seconds()
    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = _open_store(start.address, start.port, hosts, end)
    name = name_start(store, rank, world, end)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(name, store),
        rank=rank,
        world_size=world,
        timeout=_EXCHANGE,
        device_id=None if device.type == "cpu" else device,
    )
    _patient[:] = [dist.new_group(timeout=_WORK, backend="gloo")]
    if device.type == "cuda":  # nccl warns where nobody does it
        atexit.register(dist.destroy_process_group)


def _open_store(address: str, port: int, hosts: bool, end: float) -> Store:
    """The store in which all processes of a start meet; its host may come last."""
    told_to_stop: float | None = None
    while not hosts:
        try:
            with socket.create_connection((address, port), timeout=_TRY):
                break
        except OSError:  # torch's own tries could not be stopped
            try:
                _pause(end)
            except Stopped:
                now = time.monotonic()
                told_to_stop = told_to_stop or now
                if now > min(told_to_stop + _GOODBYE, end):
                    raise
                time.sleep(_PAUSE)
    return TCPStore(address, port, is_master=hosts, wait_for_workers=False)


def name_start(store: Store, rank: int, world: int, end: float) -> str:
    """Agree on a name that no earlier start has had.

    The first process makes it up and publishes it. Another one cannot know whether the name it reads is that of an
    earlier start: it leaves a word of its own there, again and again, until the first process has answered that word,
    which it does once all have come. Until then each may leave; the first process sees it, and leaves, too.

    Args:
        store: shared by all starts.
        rank: of this process.
        world: number of processes.
        end: until when to wait, by the monotonic clock.

    Raises:
        Stopped: a signal came.
        Lost: the others did not come, or one has left.
    """
    word = uuid.uuid4().hex
    if rank == 0:
        store.set(_START, word)
        said = [f"{word}/{other}" for other in range(1, world)]
        for key in said:
            while not store.check([key]):
                if store.check([_outcome(word)]):
                    raise _left()
                _pause(end)
        if store.compare_set(_outcome(word), "", _BEGUN.decode()) == _GONE:
            raise _left()
        for key in said:
            store.set(f"{word}/{store.get(key).decode()}", "welcome")
        return word
    name = ""
    while True:
        if store.check([_START]):
            name = store.get(_START).decode()
            store.set(f"{name}/{rank}", word)
            if store.check([f"{name}/{word}"]):
                return name
        try:
            _pause(end)
        except Stopped:
            # Whichever comes first, leaving or beginning, holds for all: nobody waits for who has left.
            if not name or store.compare_set(_outcome(name), "", _GONE.decode()) == _GONE:
                raise
            time.sleep(_PAUSE)


def _outcome(name: str) -> str:
    """The key of what became of a start before all had met: `_BEGUN` or `_GONE`."""
    return f"{name}/outcome"


def _left() -> Lost:
    return Lost("Another process was stopped before all had come. Run the same command again.")


def _pause(end: float) -> None:
    """Not one long wait in the store, which would take no signal."""
    check()
    if time.monotonic() > end:
        raise Lost(f"The other processes did not come within {_MEETING}.")
    time.sleep(_PAUSE)
