"""From what a user writes to a source."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np

from layergraft.config.paths import expanded
from layergraft.data.decode.ome_zarr import is_store
from layergraft.data.decode.options import READ_OPTIONS, ReadOptions, parse_read_options
from layergraft.data.decode.slide import PYRAMID_SUFFIXES, SLIDE_SUFFIXES
from layergraft.data.decode.tiling import TILING_OPTIONS, Tiling, parse_tiling
from layergraft.data.fashion.builtin import open_builtin
from layergraft.data.masks import FolderMasks, class_names, match_masks, paired_folders, validation_of
from layergraft.data.randomness import Randomness
from layergraft.data.sources.columns import USUAL, Chosen
from layergraft.data.sources.cut import cut_into_tiles, no_files
from layergraft.data.sources.files import FileImages, Place, is_remote
from layergraft.data.sources.folder import COLUMNS, open_folder
from layergraft.data.sources.from_index import as_source
from layergraft.data.sources.hdf5_file import open_hdf5
from layergraft.data.sources.huggingface import open_hub
from layergraft.data.sources.huggingface_stream import open_stream
from layergraft.data.sources.index import IndexBuilder
from layergraft.data.sources.layout import CUT, beside, shards_of
from layergraft.data.sources.list_file import open_list
from layergraft.data.sources.npy_file import array_names, open_npy, open_npz
from layergraft.data.sources.shards import open_shards, shard_paths
from layergraft.data.sources.source import IMAGE_SUFFIXES, Source
from layergraft.data.sources.table import open_table
from layergraft.data.sources.zarr_store import open_zarr
from layergraft.errors import UserError, nearest

OPTIONS = {"mean", "std", "fraction", "shots", "seed", "root", "streaming", "image", "label", "images", "labels"}
OPTIONS |= {*READ_OPTIONS, *TILING_OPTIONS}
KEPT = ("mean", "std", *READ_OPTIONS, *TILING_OPTIONS)  # of training images, for those that test them
TABLES = (".csv", ".tsv", ".parquet")
ARRAYS = (".npy", ".npz", ".h5", ".hdf5")


def _select(source: Source, query: dict[str, str]) -> Source:
    """Apply what follows the `?` of a SOURCE."""
    try:
        statistics = {k: tuple(float(x) for x in query[k].split(",")) for k in ("mean", "std") if k in query}
        seed = int(query.get("seed", 0))
        fraction, shots = float(query.get("fraction", 1)), int(query["shots"]) if "shots" in query else None
    except ValueError as error:
        raise UserError(
            f"{source.spec!r} has an option of the wrong type: {error}.",
            "`mean` and `std`: a number a channel (0.5,0.5,0.5); `fraction`: a number; `shots` and `seed`: whole ones.",
        ) from None
    hint = "They are of pixels in [0, 1]: divide levels by 255."
    if not all(0 <= value <= 1 for value in statistics.get("mean", ())):
        raise UserError(f"{source.spec!r} has a mean outside [0, 1].", hint)
    if not all(0 < value <= 1 for value in statistics.get("std", ())):
        raise UserError(f"{source.spec!r} has a std that is not above 0 and at most 1.", hint)
    if not 0 < fraction <= 1:
        raise UserError(f"{source.spec!r} has fraction={query['fraction']}.", "It is above 0 and at most 1.")
    if shots is not None and shots < 1:
        raise UserError(f"{source.spec!r} has shots={shots}.", "It is the number of images of each class: 1 or more.")
    source = replace(source, mean=statistics.get("mean", source.mean), std=statistics.get("std", source.std))
    if fraction == 1 and shots is None:
        return source
    order = Randomness(seed=seed, scope="subset").permutation("order", source.keys, 0)
    if fraction < 1:
        order = order[: max(1, round(fraction * len(order)))]
    if shots is not None:
        labels = source.selected_labels
        order = np.concatenate([order[labels[order] == c][:shots] for c in range(len(source.classes))])
    return source.subset(np.sort(source.keys[order]))


def _open_masks(spec: str, images: Path, masks: Path, index: Path | None) -> Source:
    """Images with a mask each."""
    source = open_folder(spec, Place(str(images)), index)
    names = match_masks([source.images.name(key) for key in range(len(source))], masks)
    return replace(source, labels=None, masks=FolderMasks(masks, names), classes=class_names(masks))


def _open_arrays(spec: str, file: Place, chosen: Chosen, index: Path | None) -> Source:
    if file.remote:
        raise UserError(f"{spec!r}: arrays are read from files of this machine.", "Copy the file here.")
    ending = file.name.lower().rpartition(".")[2]
    if ending == "npy":
        return open_npy(spec, file, chosen)
    return open_npz(spec, file, chosen, index) if ending == "npz" else open_hdf5(spec, file, chosen)


def _open_file(spec: str, file: Place) -> Source:
    """One image file."""
    builder = IndexBuilder(COLUMNS, None)
    builder.add([os.fsencode(file.name)], {"label": [0]})
    listed = builder.finish("")
    return as_source(spec, FileImages(file.parent, listed.names), listed)


def _open_large(
    spec: str,
    place: str,
    root: Place | None,
    streaming: bool,
    chosen: Chosen,
    index: Path | None,
    tiling: Tiling,
    reading: ReadOptions,
    begun: bool,
) -> Source:
    """Image files that are to be cut into tiles."""
    if place.startswith(("builtin:", "hf:")) or place.lower().endswith((".tar", *ARRAYS)) or is_remote(place):
        raise no_files(spec)
    where = Place(place)
    if not where.exists():
        raise UserError(f"There is no folder or file {place!r}.", "Give whole slides, or other large images.")
    if is_store(where.path):
        source = open_zarr(spec, where, chosen)
    elif where.is_folder():
        endings = PYRAMID_SUFFIXES if tiling.scaled else (*IMAGE_SUFFIXES, *SLIDE_SUFFIXES)
        source = open_folder(spec, where, index, endings)
    elif place.lower().endswith((*IMAGE_SUFFIXES, *SLIDE_SUFFIXES)):
        source = _open_file(spec, where)
    else:
        source = _open(spec, place, root, streaming, chosen, index)
    return cut_into_tiles(source, tiling, reading, index, begun)


def _open(spec: str, place: str, root: Place | None, streaming: bool, chosen: Chosen, index: Path | None) -> Source:
    if place.startswith("builtin:"):
        return open_builtin(spec, place)
    if place.startswith("hf:"):
        return open_stream(spec, place, index, chosen) if streaming else open_hub(spec, place, chosen)
    if streaming:
        raise UserError(f"{spec!r}: `streaming` is for hf: sources.", "Shards at a URL are streams as they are.")
    if root is not None and not place.lower().endswith((".txt", *TABLES)):
        raise UserError(f"{spec!r}: `root` says where the paths of a list or a table begin.", "Leave it out.")
    if chosen != USUAL and not place.lower().endswith((".tar", ".zarr", *TABLES, *ARRAYS)):
        raise UserError(
            f"{spec!r}: `image` and `label` name columns of a table or of an hf: source, members of shards, or arrays.",
            "Leave them out.",
        )
    if place.lower().endswith(".tar"):
        return open_shards(spec, place, [Place(path) for path in shard_paths(place)], index, chosen)
    where = Place(place)
    if not where.exists():
        raise UserError(f"There is no folder or file {place!r}.", "Give images, or `builtin:fashion-canvas`.")
    if not where.remote and is_store(where.path):
        return open_zarr(spec, where, chosen)
    if where.is_folder():
        pair = None if where.remote else paired_folders(Path(where.path))
        if pair:
            return _open_masks(spec, *pair, index)
        if shards := shards_of(where.path, where.names()):
            return open_shards(spec, place, [where / name for name in shards], index)
        return open_folder(spec, where, index)
    if place.lower().endswith(".txt"):
        return open_list(spec, where, root, index)
    if place.lower().endswith(TABLES):
        return open_table(spec, where, root, index, chosen)
    if place.lower().endswith(ARRAYS):
        return _open_arrays(spec, where, chosen, index)
    if place.lower().endswith(SLIDE_SUFFIXES):
        raise UserError(f"{place!r} is a whole slide.", f"Cut it into tiles: {place}{CUT}.")
    raise UserError(
        f"{place!r} is no folder, and no file of a known kind.",
        "Lists end in .txt, tables in .csv, .tsv or .parquet, shards in .tar, arrays in .npy, .npz, .h5 or .zarr.",
    )


def open_source(spec: str, index: Path | None = None, begun: bool = False) -> Source:
    """Open a SOURCE.

    Args:
        spec: a folder, flat or by class; on this machine also one that holds `images` and `annotations` as ADE20K has
            them; a list `.txt`; a table `.csv`, `.tsv` or `.parquet`; shards `{000..099}.tar`; each of them on this
            machine or at a URL that fsspec knows; arrays `.npy`, `.npz`, `.h5` or `.zarr` on this machine;
            `hf:NAME[:SPLIT]`; or a built-in set. Appended to any of them `?fraction=0.1&seed=0`, `?shots=5&seed=0`,
            `?mean=…&std=…`, and how files are read: `?range=LOW,HIGH` or `auto`, `?channels=3,2,1`, `?page=N`,
            `?z=max`; to a list or a table `?root=DIR`, where its paths begin; to a table, `hf:`, shards or arrays
            `?image=NAME&label=NAME` (or `images`, `labels`); to `hf:` `?streaming=true`. To whole slides
            `?tile=256&mpp=0.5` (or `&level=0`, `&tissue=0.5`), to other large images `?tile=256`.
        index: a directory for index files; without one nothing is written.
        begun: whether a run has begun with what the index holds; see `cut_into_tiles`.

    Raises:
        UserError: there is no such place, or no image in it.
    """
    place, _, options = spec.partition("?")
    try:
        os.fsencode(spec)
    except UnicodeEncodeError:
        raise UserError(f"The SOURCE {spec!r} holds half a character, which no path can have.") from None
    if not place:
        raise UserError(f"The SOURCE {spec!r} names no images.", "Give a folder, or `builtin:fashion-canvas`.")
    query = dict(parse_qsl(options, keep_blank_values=True))
    for key in query:
        if key not in OPTIONS:
            raise UserError(f"{spec!r} has an unknown option {key!r}.", nearest(key, OPTIONS))
    root = Place(query["root"]) if "root" in query else None
    chosen = Chosen(image=query.get("image", query.get("images")), label=query.get("label", query.get("labels")))
    streaming = query.get("streaming", "false")
    if streaming not in ("true", "false"):
        raise UserError(f"{spec!r} has streaming={streaming}.", "It is `true` or `false`.")
    reading, tiling = parse_read_options(query, spec), parse_tiling(query, spec)
    if tiling is None:
        source = _open(spec, place, root, streaming == "true", chosen, index)
    else:
        source = _open_large(spec, place, root, streaming == "true", chosen, index, tiling, reading, begun)
    return _select(source, query).read_by(reading)


def default_test_source(spec: str) -> str | None:
    """The SOURCE of the test images that belong to training images, or None where there is none."""
    place, mark, options = spec.partition("?")
    statistics = "&".join(f"{k}={v}" for k, v in parse_qsl(options) if k in KEPT)
    tail = f"?{statistics}" if mark and statistics else ""
    if place.startswith("builtin:"):
        return place.removesuffix(":train").removesuffix(":test") + ":test" + tail
    if place.lower().endswith(".npz"):
        query = dict(parse_qsl(options))
        images = query.get("image", query.get("images", "train_images"))
        names = array_names(Place(place)) if images == "train_images" else ()
        arrays = "?images=test_images&labels=test_labels" + (f"&{statistics}" if statistics else "")
        return place + arrays if {"test_images", "test_labels"} <= set(names) else None
    folder = expanded(place)
    validation = validation_of(folder)
    if validation is not None:
        return str(validation) + tail
    for name in beside(folder.name):
        if (folder.parent / name).is_dir():
            return str(folder.parent / name) + tail
    return None
