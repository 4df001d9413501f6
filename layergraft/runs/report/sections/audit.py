"""What an audit found in the images, and in their labels."""

from __future__ import annotations

from layergraft.runs.audit import Audit
from layergraft.runs.report.run_files import RunFiles
from layergraft.runs.report.section import Notes, Section, Table

_SHOWN = 20


def _tables(audit: Audit) -> list[Table]:
    near = [[pair.first, pair.second, f"{pair.likeness:.3f}"] for pair in audit.near]
    errors = [[one.path, one.label, one.suggested, f"{100 * one.probability:.0f} %"] for one in audit.label_errors]
    classes = [
        [f"{pair.first}, {pair.second}", f"{pair.accuracy:.0f} %", f"{pair.chance:.0f} %", str(pair.images)]
        for pair in audit.classes
    ]
    twice = [[one.first, one.label, one.second, one.other] for one in audit.two_labels]
    leak = [] if audit.leak is None else [[test, train, "the same"] for test, train in audit.leak.exact]
    if audit.leak is not None:
        leak += [[pair.first, pair.second, f"{pair.likeness:.3f}"] for pair in audit.leak.near]
    outliers = [[one.path, f"{one.distance / max(one.usual, 1e-9):.1f}"] for one in audit.outliers]
    filled = [
        ("Test images among the training images", ["test image", "training image", "likeness"], leak),
        ("Copies with two labels", ["image", "label", "copy", "its label"], twice),
        ("Near-duplicates", ["image", "other", "likeness"], near),
        ("Doubted labels", ["image", "label", "rather", "probability of the label"], errors),
        ("Classes told apart worst", ["classes", "accuracy", "chance", "images"], classes),
        ("Outliers", ["image", "distance, of the usual one"], outliers),
    ]
    return [
        Table(
            title=title,
            columns=columns,
            rows=rows[:_SHOWN],
            note=f"The first {_SHOWN} of {len(rows):,}; audit.json holds all." if len(rows) > _SHOWN else "",
        )
        for title, columns, rows in filled
        if rows
    ]


def audited(runs: list[RunFiles]) -> Section | None:
    """The last audit of a run; nothing where several runs are compared."""
    if len(runs) != 1 or not runs[0].audits:
        return None
    audit = runs[0].audits[-1]
    said = Notes(lines=[f"{line}." for line in audit.lines()])
    return Section(name="audit", title=f"Audit of {audit.data}", short="Audit", blocks=[said, *_tables(audit)])
