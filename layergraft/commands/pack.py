"""Write a source as tar shards with an index: few large files instead of many small ones."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from rich.console import Console

from layergraft.data.decode import BadImage
from layergraft.data.decode.options import READ_OPTIONS
from layergraft.data.first_look import look_at, remarks_on_files
from layergraft.data.reading import settle
from layergraft.data.shrink import shrunk
from layergraft.data.skipped import count_reasons
from layergraft.data.sources.contents import read_contents
from layergraft.data.sources.files import Place
from layergraft.data.sources.open import open_source
from layergraft.data.sources.shards import PACKED, build_index
from layergraft.data.sources.source import IMAGE_SUFFIXES, Source
from layergraft.errors import UserError
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_text, writing
from layergraft.runs.interruption import check
from layergraft.runs.json_files import read_json_as
from layergraft.runs.lock import locked
from layergraft.runs.readable import counted

PROGRESS = "unfinished.json"  # in `out` while not all shards are written: where the next shard begins
_ANEW = "Remove the directory, and pack again. Nothing was changed."
_SIGNATURES = {b"\xff\xd8\xff": ".jpg", b"\x89PN": ".png", b"RIF": ".webp", b"BM": ".bmp", b"\x93NUMPY": ".npy"}
_SIGNATURES |= dict.fromkeys((b"II*", b"II+", b"MM\0"), ".tif")


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The files of a packed source.

    Args:
        shards: the tars.
        index: `shards.index`.
        source: a SOURCE that opens them.
        images: how many they hold.
        skipped: how many could not be read.
    """

    shards: list[Path]
    index: Path
    source: str
    images: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class _Progress:
    """What `PROGRESS` says: the options, and the images looked at, packed and unreadable before the open shard."""

    settings: dict[str, Any]
    looked_at: Annotated[int, msgspec.Meta(ge=0)]
    packed: Annotated[int, msgspec.Meta(ge=0)]
    unreadable: Annotated[int, msgspec.Meta(ge=0)]


def _suffix(content: bytes, name: str) -> str:
    """An ending by which the member is taken for an image; decoders look at the content, whatever it is called."""
    named = next((suffix for suffix in IMAGE_SUFFIXES if name.lower().endswith(suffix)), ".jpg")
    return next((suffix for start, suffix in _SIGNATURES.items() if content.startswith(start)), named)


def _members(source: Source, first: int, channels: int, short: int | None) -> Iterator[list[tuple[str, bytes]] | str]:
    """The members of each image from the first one on, file and class; the reason for one that cannot be read."""
    for key in source.keys[first:].tolist():
        check()
        try:
            content = shrunk(source, key, channels, short) if short else source.images.read(key)
        except BadImage as error:
            yield str(error)
            continue
        members = [(f"{key:09d}{_suffix(content, source.images.name(key))}", content)]
        if source.labels is not None:
            members.append((f"{key:09d}.cls", source.classes[int(source.labels[key])].encode(errors="surrogateescape")))
        yield members


def _check(out: Path, short: int | None, channels: int, shard_images: int) -> None:
    if channels not in (1, 3):
        raise UserError(
            f"--channels is {channels}; images are shrunk to colour (3) or grey (1), as JPEG knows them.",
            "Leave out --resize and --channels: then files are kept as they are.",
        )
    for option, value in (("--resize", short), ("--shard-images", shard_images)):
        if value is not None and value < 1:
            raise UserError(f"{option} is {value}.", "It must be 1 or more.")
    if out.exists() and not (out / PROGRESS).is_file() and (not out.is_dir() or any(out.iterdir())):
        kind = "not empty" if out.is_dir() else "a file"
        raise UserError(f"{str(out)!r} is {kind}.", "Use another --out. Nothing was changed.")


def _begin(out: Path, settings: dict[str, object], images: int) -> tuple[int, int, int]:
    """Where a start begins: (images looked at, of them packed, of them unreadable); zeros but after one that stopped.

    Raises:
        UserError: what stopped was another pack, or the file that says so is damaged.
    """
    file = out / PROGRESS
    if not file.is_file():
        return 0, 0, 0
    progress = read_json_as(file, _Progress, _ANEW)
    if settings | progress.settings != settings:  # one of an earlier version says less
        raise UserError(
            f"{str(out)!r} holds an unfinished pack of other images or options.",
            "Use another --out, or the same command to go on. Nothing was changed.",
        )
    if not progress.packed + progress.unreadable == progress.looked_at <= images:
        raise UserError(f"{str(file)!r} counts more images than there are.", _ANEW)
    return progress.looked_at, progress.packed, progress.unreadable


def _contents_told(source: Source) -> str:
    """Changes with labels, and sizes and bytes of a sample of the files: a start that goes on would mix others in."""
    labels = None if source.labels is None else source.selected_labels.tobytes()
    told = repr((read_contents(source), source.classes, labels)).encode(errors="surrogateescape")
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def _earlier_shards(out: Path, count: int) -> list[Path]:
    """The shards that an earlier start ended.

    Raises:
        UserError: one is missing.
    """
    shards = [out / f"{number:06d}.tar" for number in range(count)]
    for shard in shards:
        if not shard.is_file():
            raise UserError(f"{str(shard)!r}, which an earlier start had packed, is missing.", _ANEW)
    return shards


def pack(data: str, out: Path, short: int | None, channels: int, shard_images: int) -> Packed:
    """See `layergraft.pack`."""
    _check(out, short, channels, shard_images)
    source = open_source(data)
    if short and source.options.range == "auto":  # which smaller files of 8 bits are written with
        source = settle(source, channels, announce)
    announce(*source.remarks, *remarks_on_files(look_at(source, channels), source))
    # Smaller files hold the channels, page and slice that were chosen.
    kept = ["range"] if short else list(READ_OPTIONS)
    words = "&".join(f"{name}={value}" for name, value in source.options.words().items() if name in kept)
    if words:
        announce(f"Files are packed with their own numbers: append ?{words} to the packed SOURCE, too.")
    with locked(out, announce, clear=True):
        return _pack(source, out, short, channels, shard_images)


def _pack(source: Source, out: Path, short: int | None, channels: int, shard_images: int) -> Packed:
    """Write the shards that are missing, and the index."""
    settings: dict[str, object] = {
        "data": source.spec,
        "images": source.fingerprint,
        "contents": _contents_told(source),
        "resize": short,
        "channels": channels,
        "shard_images": shard_images,
    }
    looked_at, images, skipped = _begin(out, settings, len(source))
    shards = _earlier_shards(out, images // shard_images)
    archive: tarfile.TarFile | None = None
    reasons: dict[int, str] = {}
    for members in _members(source, looked_at, channels, short):
        looked_at += 1
        if isinstance(members, str):
            reasons[looked_at] = members
            skipped += 1
            continue
        if images % shard_images == 0:
            if archive:
                with writing(shards[-1]):
                    archive.close()
            begun = {"settings": settings, "looked_at": looked_at - 1, "packed": images, "unreadable": skipped}
            write_text(out / PROGRESS, json.dumps(begun) + "\n")
            shards.append(out / f"{len(shards):06d}.tar")
            with writing(shards[-1]):
                archive = tarfile.open(shards[-1], "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by the next
        assert archive is not None
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            with writing(shards[-1]):
                archive.addfile(header, io.BytesIO(content))
        images += 1
    if archive is None:
        raise UserError(
            f"None of the {len(source)} images of {source.spec!r} can be read: {count_reasons(reasons)}.",
            "Mend them, or name others.",
        )
    with writing(shards[-1]):
        archive.close()
    images = len(build_index([Place(str(shard)) for shard in shards], out / PACKED).names)
    (out / PROGRESS).unlink()
    name = shards[0].name if len(shards) == 1 else f"{{{0:06d}..{len(shards) - 1:06d}}}.tar"
    packed = Packed(shards=shards, index=out / PACKED, source=str(out / name), images=images, skipped=skipped)
    # Of those that an earlier start counted, the reasons are not known.
    why = f" ({count_reasons(reasons)})" if len(reasons) == skipped else ""
    note = f", {skipped} could not be read{why}" if skipped else ""
    Console(stderr=True, soft_wrap=True).print(
        f"{counted(images, 'image')}{note}. Use them with --data '{packed.source}'"
    )
    return packed
