"""Figures of ours beside a rival's, in the JSON files of docs/performance/ that a page is made of."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """How much longer a rival takes than we, paired round by round.

    Args:
        case: what is measured.
        rival: beside whom.
        median: of theirs over ours; above 1 we are faster.
        min: the smallest ratio of any round.
        max: the largest.
        n: rounds.
        ours: median processor seconds of ours.
        theirs: of theirs.
    """

    case: str
    rival: str
    median: float
    min: float
    max: float
    n: int
    ours: float
    theirs: float

    @classmethod
    def of(cls, case: str, rival: str, ours: Numbers, theirs: Numbers) -> Row:
        """From the processor seconds of each round."""
        ratios = theirs / ours
        figures = (np.median(ratios), ratios.min(), ratios.max())
        median, low, high = (round(float(figure), 3) for figure in figures)
        return cls(case, rival, median, low, high, len(ratios), _short(np.median(ours)), _short(np.median(theirs)))


def _short(seconds: Any) -> float:
    return float(f"{float(seconds):.4g}")


def machine() -> dict[str, Any]:
    """The processor and how many of its cores there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in told.get("flags", "").split()]
    return {
        "processor": told.get("model name", platform.processor() or platform.machine()),
        "family and model": f"{told.get('cpu family', '?')}/{told.get('model', '?')}",
        "cores": os.cpu_count(),
        "instructions": known,
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of the packages that are installed."""
    installed = {"python": platform.python_version()}
    for name in packages:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def write_rows(file: Path, command: str, packages: Sequence[str], rows: Sequence[Row]) -> None:
    """Put rows into a file, in place of those of the same case and rival; one of other versions starts anew.

    Args:
        file: where to; its folder may be missing.
        command: that measures again.
        packages: whose versions count.
        rows: of some cases.
    """
    head = {"command": command, "machine": machine(), "versions": versions(packages)}
    before: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    same = all(before.get(key) == value for key, value in head.items())
    new = {(row.case, row.rival) for row in rows}
    kept = [row for row in before.get("rows", []) if (row["case"], row["rival"]) not in new] if same else []
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(head | {"rows": [*kept, *map(asdict, rows)]}, indent=1) + "\n")
