"""`layergraft status`: where a run stands, for a person or a shell."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from layergraft.runs.announce import announce
from layergraft.runs.interruption import check
from layergraft.runs.status import Status, read_status

_EVERY, _PAUSE = 5.0, 0.2  # seconds between two lines, and between two looks for a signal


def show_status(run: Path, watch: bool, as_json: bool) -> Status:
    """Print where a run stands; with `watch`, a line whenever that changes, until it does not run any more."""
    last = ""
    while True:
        status = read_status(run)
        line = json.dumps(asdict(status)) if as_json else status.line()
        if line != last:
            print(line, flush=True)
            announce(*(f"  {text}" for text in (*status.warnings, status.message) if text and not as_json))
        last = line
        if not watch or status.state != "running":
            return status
        end = time.monotonic() + _EVERY
        while time.monotonic() < end:
            check()
            time.sleep(_PAUSE)
