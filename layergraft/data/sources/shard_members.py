"""Which members of a tar shard are images, and their classes, in the WebDataset convention.

Members that follow each other and share a name up to its first dot are a sample; what comes behind that dot says what
a member is. A sample has one image: its masks are none. Names with further dots (`slide1.x003.png`) begin alike
without being one sample; they are told apart by what stands before the last dot.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from layergraft.data.sources.columns import USUAL, Chosen
from layergraft.data.sources.source import IMAGE_SUFFIXES, is_picture

LABELS = ("cls", "cls.txt", "class", "json")
IMAGES = ("image", "img", "input", "rgb")
MASKS = {"seg", "segm", "segmentation", "semantic", "instance", "panoptic", "mask", "masks", "target", "gt"}
MASKS |= {"label", "labels", "annotation", "annotations", "depth"}
LABEL_BYTES = 2**20  # more is no class


class Member(NamedTuple):
    """An image of a tar file: where it lies, and its class; the name is empty where a class has no image."""

    name: str
    offset: int
    size: int
    label: str | None


class _Part(NamedTuple):
    """A member of a sample.

    Args:
        member: where it lies.
        prefix: what stands between the first dot of the name and what tells the kind: `x003` of `slide1.x003.png`.
        kind: `png`, `cls`.
        is_image: whether it is an image file; else it is a class.
    """

    member: Member
    prefix: str
    kind: str
    is_image: bool


def _label(kind: str, content: bytes) -> str | None:
    """The class that a member beside an image gives."""
    if kind != "json":
        return content.decode("utf-8", "replace").strip()
    try:
        value: Any = json.loads(content)
    except ValueError:
        return None
    label = value.get("label") if isinstance(value, dict) else None
    return None if label is None else str(label)


def members_of(archive: tarfile.TarFile, unused: set[str], chosen: Chosen = USUAL) -> Iterator[Member]:
    """The images of a tar file in order; one without a name for a class that has no image.

    Args:
        archive: the tar file.
        unused: gets the endings of the members that are neither.
        chosen: the endings of images and of classes (`?image=left.png&label=txt`), where they are not the usual ones.
    """
    parts: list[_Part] = []
    current = ""
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header it has seen
        if not member.isfile():
            continue
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        if f"{folder}/{stem}" != current:
            yield from _sample(parts, unused)
            parts, current = [], f"{folder}/{stem}"
        part = _part(archive, member, extension.lower(), chosen)
        if part is not None:
            parts.append(part)
        elif stem and extension:
            unused.add(_ending(extension.lower()))
    yield from _sample(parts, unused)


def _part(archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str, chosen: Chosen) -> _Part | None:
    """What a member is of its sample; None where it is neither an image nor a class."""
    prefix, _, kind = extension.rpartition(".")
    place = Member(member.name, member.offset_data, member.size, None)
    wanted = (chosen.image or extension).lower().lstrip(".") == extension
    if wanted and is_picture(member.name):
        return _Part(place, "" if chosen.image else prefix, kind, True)
    if chosen.label is not None:
        is_label = extension == chosen.label.lower().lstrip(".")
        prefix = ""
    elif extension == "cls.txt" or extension.endswith(".cls.txt"):
        is_label, prefix = True, extension.removesuffix("cls.txt").rstrip(".")
    else:
        is_label = kind in LABELS
    if not is_label or member.size > LABEL_BYTES:
        return None
    content = archive.extractfile(member)
    label = _label(kind, content.read() if content else b"")
    return None if not label else _Part(place._replace(label=label), prefix, kind, False)


def _sample(parts: list[_Part], unused: set[str]) -> Iterator[Member]:
    """The image of a sample, or those of names with further dots, with their classes."""
    labels = {part.prefix: part.member.label for part in parts if not part.is_image}
    of_all = next((part.member.label for part in reversed(parts) if not part.is_image), None)
    images: dict[str, _Part] = {}  # of each prefix the one whose ending comes first: x.jpg before its mask x.png
    for part in sorted((part for part in parts if part.is_image), key=_rank):
        images.setdefault(part.prefix, part)
    pictures = [prefix for prefix in images if prefix.rpartition(".")[2] not in MASKS] or list(images)
    named = [prefix for prefix in pictures if prefix.rpartition(".")[2] in IMAGES]
    kept = pictures
    if "" in images:
        kept = [""]
    elif len(named) == 1:
        kept = named
    taken = [part for part in parts if part.is_image and part.prefix in kept and part is images[part.prefix]]
    unused |= {_ending(f"{part.prefix}.{part.kind}") for part in parts if part.is_image and part not in taken}
    if not taken and of_all:
        yield Member("", 0, 0, of_all)
    separate = len(kept) > 1 and any(prefix in labels for prefix in kept)
    for part in taken:
        yield part.member._replace(label=labels.get(part.prefix, None if separate else of_all))


def _rank(part: _Part) -> int:
    return next(rank for rank, suffix in enumerate(IMAGE_SUFFIXES) if suffix.endswith(f".{part.kind}"))


def _ending(extension: str) -> str:
    """What is said of a member: `.seg.png`, but `.txt` of a name with further dots."""
    prefix, _, kind = extension.rpartition(".")
    last = prefix.rpartition(".")[2]
    return f".{last}.{kind}" if last in MASKS else f".{kind}"
