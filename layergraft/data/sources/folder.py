"""A folder of images: flat, or with one subfolder per class."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from layergraft.data.decode.ome_zarr import MARKS, images_of
from layergraft.data.sources.files import STORE, FileImages, Place
from layergraft.data.sources.from_index import as_source
from layergraft.data.sources.index import Index, IndexBuilder, open_index
from layergraft.data.sources.layout import OtherFiles, check_layout, no_images, side_note
from layergraft.data.sources.source import IMAGE_SUFFIXES, Source, is_hidden, is_picture
from layergraft.errors import UserError
from layergraft.runs.interruption import check

NO_IMAGES = ("lost+found",)  # what a file system keeps for itself in its uppermost folder
PARTS_OF_SLIDES = (".dat", ".opt", ".jpg")  # of .mrxs, .vms
COLUMNS = {"label": np.int32}  # of the index of files by path


def _refuse(error: OSError) -> None:
    """A folder that cannot be listed would take its images, and perhaps a class, away without a word."""
    if os.path.basename(error.filename) not in NO_IMAGES:
        raise UserError(
            f"The folder {error.filename!r} cannot be listed: {error.strerror}.",
            "Give yourself the permission to read it, or move it away.",
        )


def _walk(root: str, stamps: dict[str, int], others: OtherFiles, endings: tuple[str, ...]) -> Iterator[str]:
    """Relative paths of the images below a folder; notes when each folder last changed. Links are followed once.

    Raises:
        UserError: a folder cannot be listed.
    """
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        check()
        # No file below a hidden folder is taken, whoever may read it.
        folders[:] = [name for name in folders if not is_hidden(name)]
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        stamps[folder] = status.st_mtime_ns
        prefix = "" if folder == root else os.path.relpath(folder, root) + "/"
        if prefix and any(mark in files for mark in MARKS):
            folders.clear()
            yield from _stored(folder, prefix, others)
            continue
        yield from _pictures((prefix + file for file in files), others, endings)


def _stored(folder: str, prefix: str, others: OtherFiles) -> Iterator[str]:
    """Images of an OME-Zarr store, as `FileImages` wants them; another store is counted among the other files."""
    images = list(images_of(folder))
    if not images:
        others.add(prefix.rstrip("/"))
    yield from (f"{prefix}/{image}" for image in images)


def _pictures(paths: Iterable[str], others: OtherFiles, endings: tuple[str, ...]) -> Iterator[str]:
    """Those of images; the others are counted."""
    for path in paths:
        if is_picture(path, endings):
            yield path
        else:
            others.add(path)


def _without_features(paths: list[bytes], others: OtherFiles) -> list[bytes]:
    """Without `.npy` files among pictures, which are not images but features or labels of theirs; they are counted."""
    arrays = {path for path in paths if path.lower().endswith(b".npy")}
    if len(arrays) == len(paths):
        return paths
    for path in arrays:
        others.add(os.fsdecode(path))
    return [path for path in paths if path not in arrays]


def _unchanged(signature: str) -> bool:
    """Whether no folder has gained or lost a file; a remote listing is taken as it was."""
    try:
        return all(os.stat(folder).st_mtime_ns == stamp for folder, stamp in json.loads(signature).items())
    except OSError:
        return False


def _build(root: Place, endings: tuple[str, ...], path: Path | None) -> Index:
    stamps: dict[str, int] = {}
    others = OtherFiles()
    if root.remote:
        names = [file.removeprefix(root.path + "/") for file in root.files()]
        paths = [os.fsencode(file) for file in _pictures(names, others, endings)]
    else:
        paths = [os.fsencode(file) for file in _walk(root.path, stamps, others, endings)]
    if endings != IMAGE_SUFFIXES:
        for ending in PARTS_OF_SLIDES:
            others.counts.pop(ending, None)
    paths = sorted(_without_features(paths, others))
    if not paths:
        raise no_images(root.path, others)
    files = paths
    if not root.remote:  # what lies within a store is no class
        files = [path.partition(STORE)[0] for path in paths]
    inside = check_layout(root.path, files)
    builder = IndexBuilder(COLUMNS, path)
    builder.remarks = [*others.remark(root.path), *side_note(root.path, others)]
    if inside and any(b"/" in name[len(os.fsencode(inside)) :] for name in files):
        builder.label_hint = f"Give {os.path.join(root.path, inside)}, whose folders are the classes."
    tops = [os.fsdecode(name.partition(b"/")[0]) if b"/" in name else "" for name in files]
    classes = set(tops)
    labelled = "" not in classes and len(classes) > 1
    labels = builder.class_ids(tops) if labelled else np.zeros(len(paths), dtype=np.int32)
    builder.add(paths, {"label": labels})
    return builder.finish(json.dumps(stamps))


def open_folder(
    spec: str, root: Place, index_directory: Path | None, endings: tuple[str, ...] = IMAGE_SUFFIXES
) -> Source:
    """Open a folder; sample key = place in the byte-sorted listing.

    Args:
        spec: what the user wrote.
        root: the folder.
        index_directory: of index files; without one nothing is written.
        endings: of the files that are taken.
    """
    place = root.path if endings == IMAGE_SUFFIXES else f"{root.path} {endings}"
    index = open_index(index_directory, place, _unchanged, partial(_build, root, endings))
    images = FileImages(root, index.names)
    return as_source(spec, images, index)
