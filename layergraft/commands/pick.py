"""`layergraft pick`: which images to label next."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layergraft.data.arrays import Indices, Labels
from layergraft.data.first_look import look_at, remarks_on_files
from layergraft.data.reading import settle
from layergraft.data.sources.columns import shown
from layergraft.data.sources.files import Place
from layergraft.data.sources.label_file import read_label_rows, read_labels
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.data.sources.table import read_table
from layergraft.encoders.checkpoint import load_encoder
from layergraft.errors import UserError
from layergraft.evaluation.cache import features_of
from layergraft.evaluation.features import Array, center_and_normalize, features_named
from layergraft.evaluation.picking.methods import CLASSES, Method, pick_rows, resolved
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_text
from layergraft.runs.notebook import data_frame, html_table
from layergraft.runs.readable import counted

COLUMNS = ("path", "label", "rank")
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Picks:
    """Which images to label next.

    Args:
        paths: names of the images, the first to label first.
        method: how they were picked.
        out: the file to fill in.
    """

    paths: list[str]
    method: str
    out: Path

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        shown = [f"  {rank}. {path}" for rank, path in enumerate(self.paths[:_SHOWN], 1)]
        more = [f"  … {len(self.paths) - _SHOWN} more"] if len(self.paths) > _SHOWN else []
        return "\n".join(
            [f"{counted(len(self.paths), 'image')} to label, by {self.method}, in {self.out}:", *shown, *more]
        )

    def _repr_html_(self) -> str:
        return html_table(
            f"{counted(len(self.paths), 'image')} to label, in {self.out}", ("rank", "path"), enumerate(self.paths, 1)
        )

    def to_pandas(self) -> Any:
        """A data frame of the columns `rank` and `path`; raises `UserError` where pandas is missing."""
        return data_frame(("rank", "path"), enumerate(self.paths, 1))


def pick_command(*, encoder: str, data: str, number: int, labels: str | None, method: str, out: Path) -> Picks:
    """Write `path`, a blank `label` and `rank` of the images to label next; see `layergraft.pick`."""
    if number < 1:
        raise UserError(f"--number is {number}.", "It is how many images to label, one at least.")
    _check_out(out)
    source = open_source(data)
    if not len(source):
        raise UserError(f"{data!r} has no image.")
    labelled = read_labels(labels, source) if labels else None
    chosen = resolved(method)  # type: ignore[arg-type]
    known, classes = _known(source, labelled)
    if chosen == "margin" and not len(np.unique(classes)) > 1:
        raise UserError(
            "The method margin needs labels of two classes at least.", "Give --labels FILE, or take another --method."
        )
    if len(known) == len(source):
        raise UserError(f"All {len(source)} images of {data!r} have labels.")
    loaded = load_encoder(encoder)
    source = settle(source, loaded.in_chans, announce, loaded.reads, repr(encoder))
    announce(*source.remarks, *remarks_on_files(look_at(source, loaded.in_chans), source))
    with features_named(encoder):
        features = features_of(loaded, source, ["cls"])["cls"]
    rows = _pick(source, features, known, classes, chosen, number)
    paths = [source.images.name(int(source.keys[row])) for row in rows]
    _check_out(out)  # which may have come meanwhile
    write_text(out, _csv(paths))
    announce(f"{len(rows)} of {len(source)} images, picked by {chosen}, are in {out}. Fill in the column `label`.")
    return Picks(paths=paths, method=chosen, out=out)


def _known(source: Source, labelled: Source | None) -> tuple[Indices, Labels]:
    """(positions in `source` of images that have a label, their classes)."""
    if labelled is None or labelled.labels is None:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    classes = labelled.labels[source.keys].astype(np.int64)
    rows = np.flatnonzero(classes >= 0)
    return rows, classes[rows]


def _pick(source: Source, features: Array, known: Indices, classes: Labels, method: Method, number: int) -> Indices:
    """Positions in `source` of the picks; images that cannot be read are none of them."""
    readable = ~np.isnan(features[:, 0])
    if not readable.all():
        announce(f"{counted(int((~readable).sum()), 'image')} of {len(source):,} left out: unreadable.")
    position = np.cumsum(readable) - 1
    kept = readable[known]
    if method == "probcover" and len(np.unique(classes)) < 2:
        announce(f"Without labels of two classes, probcover takes the images to be of {CLASSES} classes.")
    picked = pick_rows(center_and_normalize(features[readable]), number, method, position[known[kept]], classes[kept])
    if len(picked) < number:
        announce(f"{number} were asked for; all others are labelled, or near-duplicates of what is picked or labelled.")
    return np.asarray(np.flatnonzero(readable)[picked], dtype=np.int64)


def _check_out(out: Path) -> None:
    """Refuse what would not become a labels file, or would overwrite one.

    Raises:
        UserError: the file holds labels, or something else than picks.
    """
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out is {str(out)!r}, and picks are a .csv file.", f"For instance --out {out}.csv.")
    if not out.exists():
        return
    try:
        labels = len(read_label_rows(str(out)))
        others = [name for name in read_table(Place(str(out))).names if name not in COLUMNS]
    except UserError as error:
        raise UserError(f"{str(out)!r} exists and is no file of picks: {error}", "Give another --out.") from None
    if others and not labels:
        raise UserError(
            f"{str(out)!r} exists and is no file of picks: it has {shown(others)}.", "It is kept: give another --out."
        )
    if labels:
        raise UserError(
            f"{str(out)!r} holds {counted(labels, 'label')} to keep.",
            f"Give another --out, and --labels {out}: they are not picked again.",
        )


def _csv(paths: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((path, "", rank) for rank, path in enumerate(paths, 1))
    return text.getvalue()
