"""Write the documentation's page of speed from the committed files of docs/performance: every number on it.

    python tools/docs_performance.py

A file is one measurement: {title, about, machine, versions, command, commit, rows}. Of a row `case` says what was done
and `rival` by whom besides us; `theirs` and `ours` are numbers of a `unit`, of which `better` is `less` or `more`;
`note`, where it is there, says more. All rows are shown, whoever is ahead.

    layergraft bench logistic --encoder runs/demo --data builtin:fashion-canvas --json true > fits.json
    python tools/docs_performance.py --logistic fits.json

makes logistic.json of what the command prints (several files are several calls of it), then the page.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from layergraft.commands.study.directory import commit

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FILES = DOCS / "performance.md", DOCS / "performance"
ORDER = ("quality", "steps", "views", "logistic", "weight")
HEAD = """# Speed and weight, measured

Beside other libraries, in turn on the same machine, also where they are ahead: **behind** marks such a row. What is
above 1 in the last column is in our favour. Made from the files in `docs/performance` by `tools/docs_performance.py`.
"""
RIVALS = {
    "sklearn": "scikit-learn `lbfgs`",
    "sklearn_tight": "scikit-learn `lbfgs`, tight",
    "newton_cholesky": "scikit-learn `newton-cholesky`",
    "newton_cholesky_tight": "scikit-learn `newton-cholesky`, tight",
    "torch_lbfgs_10": "torch `LBFGS`, strong Wolfe",
    "torch_lbfgs_100": "torch `LBFGS`, strong Wolfe, history 100",
    "cyanure": "Cyanure",
    "cyanure_tight": "Cyanure, tight",
}


def _number(value: float) -> str:
    """Three digits, more where there are more before the point."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _row(row: dict[str, Any]) -> str:
    theirs, ours = row["theirs"], row["ours"]
    ratio = theirs / ours if row["better"] == "less" else ours / theirs
    lead = f"{ratio:.2f}" + ("" if ratio >= 1 else " **behind**")
    note = f" ({row['note']})" if row.get("note") else ""
    unit = row["unit"]
    return f"| {row['case']} | {row['rival']}{note} | {_number(theirs)} {unit} | {_number(ours)} {unit} | {lead} |"


def _section(measured: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in measured["versions"].items())
    how = f"{measured['machine']}; {versions}; commit {measured['commit']}."
    table = "\n".join(["| | rival | theirs | ours | times |", "|---|---|--:|--:|--:|", *map(_row, measured["rows"])])
    command = f"```text\n{measured['command']}\n```"
    return f"## {measured['title']}\n\n{measured['about']}\n\n{command}\n\n{how}\n\n{table}\n"


def page(files: Path) -> str:
    """All measurements that there are."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files.glob("*.json")}
    names = [*(name for name in ORDER if name in found), *sorted(found.keys() - set(ORDER))]
    return "\n".join([HEAD, *(_section(found[name]) for name in names)])


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def record_logistic(outputs: list[Path], file: Path) -> None:
    """Keep what `layergraft bench logistic` printed: processor time of a fit to the objective that a rival ended with.

    Raises:
        KeyError: it was called without --data.
    """
    rows = []
    for case in (case for path in outputs for case in json.loads(path.read_text().splitlines()[-1])["cases"]):
        name = f"{case['images']}, {case['rows']:,} × {case['features']:,}"
        proof = f"; ours to its proof {_number(1e3 * case['ours']['cpu_seconds'])} ms" if case["ours"] else ""
        for key, rival in case["rivals"].items():
            rows.append(
                {
                    "case": name,
                    "rival": RIVALS[key],
                    "theirs": 1e3 * rival["cpu_seconds"],
                    "ours": 1e3 * rival["ours"]["cpu_seconds"],
                    "unit": "ms",
                    "better": "less",
                    "note": f"ended at {rival['objective']:.8f}{proof}",
                }
            )
    measured = {
        "title": "Fitting a linear classifier to few labels",
        "about": (
            "Multinomial logistic regression with the penalty of the protocols (λ = 2.5·10⁻⁴/n) and ten classes, on "
            "the class token of the encoder of `fashion_paper` and on raw pixels: processor time of a rival's fit, and "
            "of ours to no worse an objective than the rival ended with, on one thread, beside other programs; "
            "medians of five fits in turn where one takes less than two seconds. Tight tolerances are 10⁻¹² "
            "(Cyanure 10⁻⁶), ours proves a distance of 10⁻¹⁰ of the optimum. torch's fits are given up after 20 s; "
            "scikit-learn's tight ones, which take minutes at 10,000 rows, are left out there; of 10,000 rows of "
            "pixels there is one fit each, and none of Cyanure's tight ones."
        ),
        "machine": f"{_processor()}, one thread",
        "versions": {name: version(name) for name in ("torch", "scikit-learn", "cyanure")},
        "command": "layergraft bench logistic --encoder runs/demo --data builtin:fashion-canvas",
        "commit": commit(),
        "rows": rows,
    }
    file.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=Path, default=FILES)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--logistic", type=Path, nargs="+", default=[], help="outputs of `layergraft bench logistic`")
    arguments = parser.parse_args()
    if arguments.logistic:
        record_logistic(arguments.logistic, arguments.files / "logistic.json")
    arguments.page.write_text(page(arguments.files), encoding="utf-8")


if __name__ == "__main__":
    main()
