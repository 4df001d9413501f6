"""The table of a plan, in a window of 80 columns or a pipe."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console

from layergraft.commands.plan import plan_table

COMMON = {"source": "previous", "weight_decay": 0.1, "weight_decay_1d": 0.0, "anchor": None, "parameters": 22036480}
VARIED = {"source": "/data/checkpoints/mae_pretrain_vit_large.pth?num_heads=16", "weight_decay": 1e-5}
VARIED |= {"weight_decay_1d": 0.05, "anchor": {"norm": "l1", "weight": 1e-5}}


def printed(rows: list[dict[str, Any]]) -> str:
    stage = {"name": "graft", "objective": "moco", "optimizer": "adamw", "epochs": 300}
    stage |= {"batch_size": 4096, "steps": None, "seconds": None}
    console = Console(file=io.StringIO(), width=80)
    console.print(plan_table(stage | {"memory_bytes": 477.2 * 2**30, "layers": rows}))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(name: str, lr: float, **more: Any) -> dict[str, Any]:
    return COMMON | {"name": name, "lr_scale": lr, "lr": 16 * lr, "frozen": lr == 0} | more


def test_what_all_layers_share_is_said_once() -> None:
    text = printed([row("patch_embed", 0.0), row("blocks.11", 1.5e-5), row("heads.projector", 1.5e-4)])
    assert re.search(r"heads.projector │  0.00015 │  0.0024 ", text)
    assert re.search(r"blocks.11 +│   1.5e-5 │ 0.00024 ", text)
    assert re.search(r"patch_embed +│ +│  frozen ", text)
    assert "All layers: source previous, decay 0.1, decay 1-D 0, parameters 22,036,480.\n" in text
    assert "about 480 GiB" in text


def test_nothing_but_a_source_is_broken() -> None:
    """Where every column is needed, too."""
    text = printed([row("patch_embed", 7.54e-5), row("heads.projector", 1.23e-5, **VARIED)])
    assert "…" not in text
    for cell in ("patch_embed", "0.00121", "7.54e-5", "heads.projector", "1.23e-5", "l1 1e-5", "22,036,480"):
        assert cell in text
    assert max(map(len, text.splitlines())) <= 80
