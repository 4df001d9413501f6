"""What a folder is that holds more than the images of one set: parts of a data set, masks, tables, shards.

Its first folders would be taken for classes; so it is refused with what to give instead.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from layergraft.data.decode.slide import SLIDE_SUFFIXES
from layergraft.data.sources.source import IMAGE_SUFFIXES, is_hidden
from layergraft.errors import UserError

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
IMAGES = {"images", "image", "imgs", "img", "jpegimages"}
MASKS = {"masks", "mask", "annotations", "annotation", "labels", "gt", "groundtruth", "groundtruths", "trimaps"}
MASKS |= {"segmentation", "segmentations", "segmentationclass", "segmentationobject"}
# What stands beside images and is none.
_TEXTS = {".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".toml", ".cfg", ".names", ".md", ".rst"}
_TEXTS |= {".html", ".htm", ".pdf", ".ini", ".db", ".log", ".lnk", ".url", ".py", ".pyc", ".ipynb", ".sh", ".bat"}
_TEXTS |= {".doc", ".docx", ".xls", ".xlsx", ".md5", ".sha1", ".sha256"}
_NO_ENDING = ("README", "LICENSE", "LICENCE", "COPYING", "NOTICE", "VERSION", "Makefile", "MD5SUMS", "SHA256SUMS")
SHOWN = 8
CUT = "?tile=256&mpp=0.5"


class OtherFiles:
    """Files of a folder that are not taken: how many of each ending, and one of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, path: str) -> None:
        """Count a file, by its path below the folder, unless it is hidden."""
        if not is_hidden(path):
            name = os.path.basename(path)
            ending = "" if name in _NO_ENDING else _ending(name)
            self.counts[ending] += 1
            self.first[ending] = min(path, self.first.get(ending, path))

    def remark(self, place: str) -> list[str]:
        """One sentence on files that might be images, if there are any."""
        counts = {ending: n for ending, n in self.counts.items() if ending and ending not in _TEXTS}
        if not counts:
            return []
        slides = any(ending in SLIDE_SUFFIXES for ending in counts)
        hint = " Whole slides are cut into tiles: ?tile=256&mpp=0.5." if slides else ""
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        listed = [f"{count} {ending}" for ending, count in ordered[:SHOWN]]
        return [f"{place!r}: left out by their ending: {', '.join(listed)}{' …' if len(counts) > SHOWN else ''}.{hint}"]


def _ending(name: str) -> str:
    stem, ending = os.path.splitext(name.lower())
    if ending == ".gz":  # .nii.gz, .tar.gz
        return os.path.splitext(stem)[1] + ending
    return ending or "without an ending"


def part_of(name: str) -> str | None:
    """The part of a data set that a folder is called after: `Training`, `train2017` and `train_images` are `train`."""
    match = re.fullmatch(r"([a-z]+?)[_-]?(\d{4})?[_-]?(set|images|imgs|data|split)?", name.lower())
    word = match[1] if match else ""
    return next((part for part, names in PARTS.items() if word in names), None)


def beside(folder: str) -> list[str]:
    """What the images that test a folder may be called: `val2017` or `test2017` for `train2017`; none of another."""
    word = next((word for word in ("training", "train") if folder.startswith(word)), "")
    if part_of(folder) != "train":
        return []
    return [name + folder[len(word) :] for part in ("val", "test") for name in PARTS[part]]


def _first_folders(paths: Sequence[bytes]) -> tuple[str, set[str]]:
    """(the folders in which all images lie, "" or with a slash behind; those that they lie in below)."""
    inside = 0
    while True:
        parted = [path[inside:].partition(b"/") for path in paths]
        tops = {top for top, slash, _ in parted if slash}
        if len(tops) != 1 or not all(slash for _, slash, _ in parted):
            return os.fsdecode(paths[0][:inside]), set(map(os.fsdecode, tops))
        inside += len(tops.pop()) + 1


def check_layout(place: str, paths: Sequence[bytes]) -> str:
    """Refuse a folder whose first folders are no classes.

    Args:
        place: the folder.
        paths: of its images, relative to it; one or more.

    Returns:
        The folders in which all images lie, "" or with a slash behind.

    Raises:
        UserError: it holds parts of a data set, or images and masks.
    """
    inside, tops = _first_folders(paths)
    root = os.path.join(place, inside)
    parts: dict[str, str] = {}  # part -> its folder
    for top in sorted(tops):
        parts.setdefault(part_of(top) or "", top)
    known = [parts[part] for part in PARTS if part in parts]
    if len(known) > 1:
        raise UserError(
            f"{root!r} holds {', '.join(known)}: parts of a data set, no classes.",
            f"Give {root}{known[0]}, and --test {root}{known[-1]}.",
        )
    words = {re.sub(r"[^a-z]", "", top.lower()): top for top in sorted(tops)}
    images = [top for word, top in words.items() if word in IMAGES]
    if len(images) == 1 and len(words) > 1 and words.keys() <= IMAGES | MASKS:
        masks = [top for top in sorted(tops) if top != images[0]]
        raise UserError(
            f"{root!r} holds {images[0]} and {', '.join(masks)}, which are images and what was drawn over them, "
            "no classes.",
            f"Give {root}{images[0]}. Masks of the same names are used from images/ and annotations/.",
        )
    return inside


def no_images(place: str, others: OtherFiles) -> UserError:
    """What to say of a folder without an image."""
    if ".arrow" in others.first:
        folder = os.path.dirname(others.first[".arrow"])
        return UserError(
            f"The folder {place!r} was written by a Hugging Face dataset's save_to_disk.",
            f"Give hf:{place}{f':{folder}' if folder else ''}.",
        )
    if ".parquet" in others.first:
        first = others.first[".parquet"]
        word = re.match(r"[a-z]*", os.path.basename(first).lower())
        part = part_of(word[0]) if word else None
        return UserError(
            f"The folder {place!r} holds {others.counts['.parquet']} .parquet.",
            f"Give hf:{place}{f':{part}' if part not in (None, 'train') else ''} for all of them, or one of them: "
            f"{os.path.join(place, first)}.",
        )
    slides = {ending: others.counts[ending] for ending in SLIDE_SUFFIXES if ending in others.counts}
    if slides:
        listed = ", ".join(f"{count} {ending}" for ending, count in slides.items())
        return UserError(f"The folder {place!r} holds whole slides: {listed}.", f"Cut them into tiles: {place}{CUT}.")
    seen = others.remark(place)
    return UserError(
        f"There is no image in the folder {place!r}." + (f" {seen[0]}" if seen else ""),
        f"Looked for files ending in {' '.join(IMAGE_SUFFIXES)}.",
    )


def shards_of(place: str, names: Iterable[str]) -> list[str]:
    """The tar shards of a folder that holds nothing else but an index and notes; else none.

    Raises:
        UserError: they are of several parts of a data set.
    """
    tars = []
    for name in names:
        if name.lower().endswith(".tar") and not is_hidden(name):
            tars.append(name)
        elif not (is_hidden(name) or name in _NO_ENDING or _ending(name) in _TEXTS | {".index", ".arrow"}):
            return []
    parts: dict[str, list[str]] = {}
    for name in sorted(tars):
        word = re.match(r"[a-z]*", name.lower())
        parts.setdefault(part_of(word[0] if word else "") or "", []).append(name)
    if len(parts.keys() - {""}) > 1:
        raise UserError(
            f"The folder {place!r} holds shards of {' and '.join(part for part in PARTS if part in parts)}.",
            f"Give one part: {os.path.join(place, _joined(parts.get('train') or next(iter(parts.values()))))}.",
        )
    return sorted(tars)


def _joined(names: Sequence[str]) -> str:
    """Names of shards as one SOURCE, as far as their numbers follow each other."""
    numbers = [re.search(r"(\d+)(?=\D*$)", name) for name in names]
    matches = [match for match in numbers if match]
    if len(matches) < len(names) or len(names) < 2:
        return names[0]
    first, last = matches[0], matches[-1]
    return f"{names[0][: first.start()]}{{{first[0]}..{last[0]}}}{names[0][first.end() :]}"


def side_note(place: str, others: OtherFiles) -> list[str]:
    """One sentence where a folder is a set for detection, whose boxes are no labels of images."""
    kinds: tuple[tuple[str, str, Collection[str]], ...] = (
        ("COCO", ".json", ("annotations", "coco")),
        ("Pascal VOC", ".xml", ("annotations", "xmls")),
        ("YOLO", ".txt", ("labels",)),
        ("CVAT", ".xml", ()),
    )
    for kind, ending, folders in kinds:
        first = others.first.get(ending, "")
        above = first.lower().split("/")[:-1]
        if any(folder in folders for folder in above) or (kind == "CVAT" and first == "annotations.xml"):
            return [f"{place!r} looks like {kind}: what {first} says of the images is not read."]
    return []
