"""The public functions. Each is a command of the same name with the same arguments; `cli` reads them from here.

Nothing heavy is imported before a function is called, so that help is quick.
"""

from __future__ import annotations

from layergraft.commands.api.bench import bench
from layergraft.commands.api.encoders import analyze, embed, evaluate, export, inspect
from layergraft.commands.api.labels import audit, label, pick, predict
from layergraft.commands.api.training import (
    ablate,
    demo,
    look,
    pack,
    plan,
    report,
    reproduce,
    status,
    train,
)

__all__ = [
    "ablate",
    "analyze",
    "audit",
    "bench",
    "demo",
    "embed",
    "evaluate",
    "export",
    "inspect",
    "label",
    "look",
    "pack",
    "pick",
    "plan",
    "predict",
    "report",
    "reproduce",
    "status",
    "train",
]

# In the order in which they are listed: what comes first, training, encoders, few labels, and what goes with them.
COMMANDS = (
    *(demo, look, plan, train, status),
    *(evaluate, embed, analyze, inspect, export),
    *(pick, label, predict, audit),
    *(report, pack, bench, ablate, reproduce),
)
