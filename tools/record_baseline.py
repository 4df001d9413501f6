"""Record the demo's baseline, its contrastive stage from scratch, so that the report can show it without training it.

    python tools/record_baseline.py --out runs/baseline

trains the demo with `--baseline true` (or takes the run that is there) and puts the rows of `scratch` into
`layergraft/config/recipes/recorded/fashion_tiny.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import layergraft
from layergraft.runs.atomic import write_text
from layergraft.runs.report.recorded import record_file
from layergraft.runs.results import read_results
from layergraft.training.launch import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/baseline"), help="directory of the run")
    run = layergraft.demo(out=str(parser.parse_args().out), baseline=True)
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed words
    file = record_file("fashion_tiny")
    record = json.loads(file.read_text()) if file.is_file() else {}
    record["baseline"] = {
        "command": "layergraft demo --baseline true",
        "commit": commit,
        "machine": machine(),
        "rows": [asdict(row) for row in read_results(run.results) if row.encoder.split("/")[0] == "scratch"],
    }
    write_text(file, json.dumps(record, indent=1) + "\n")
    print(f"Recorded in {file}")


if __name__ == "__main__":
    main()
