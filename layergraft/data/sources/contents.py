"""Whether the images of a run have the content that they had when it began: the sizes of many, the bytes of a few.

Names tell which images are trained on (`Source.identity`); files that were replaced under their names would be taken
for the same ones. Reading all of them takes too long, so a sample is compared. Files far away are not looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from layergraft.data.arrays import Labels
from layergraft.data.decode import BadImage
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import EncodedImages, Source
from layergraft.errors import UserError
from layergraft.runs.atomic import write_bytes
from layergraft.runs.json_files import read_json_as

SIZES, HASHED = 4096, 64  # images whose sizes, and whose first bytes, are compared
BYTES = 2**20
NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a sample of a source's images held.

    Args:
        identity: `Source.identity` of all of them.
        sizes: bytes of each of `sampled_keys`; None where nobody can tell.
        hashes: of the first bytes of the first of them.
    """

    identity: str
    sizes: list[int | None]
    hashes: list[str | None]


def sampled_keys(source: Source) -> Labels:
    """Up to `SIZES` sample keys spread over a source; always the same of the same keys."""
    keys = np.sort(source.keys)
    return keys[Randomness(seed=0, scope="contents").permutation("sample", keys, 0, first=SIZES)]


def read_contents(source: Source) -> Contents | None:
    """Look at the sample; None for images that are no files."""
    images = source.images
    if not isinstance(images, EncodedImages):
        return None
    keys = sampled_keys(source).tolist()
    sizes = [images.size(key) for key in keys]
    hashes: list[str | None] = []
    for key, size in zip(keys[:HASHED], sizes, strict=False):
        try:
            start = None if size is None else images.start(key, min(size, BYTES))
            hashes.append(None if start is None else hashlib.blake2b(start, digest_size=8).hexdigest())
        except BadImage:
            hashes.append(None)
    return Contents(identity=source.identity, sizes=sizes, hashes=hashes)


def check_contents(file: Path, source: Source, unreadable: Collection[int]) -> Contents | None:
    """Compare the images of a run that goes on with what they were.

    Args:
        file: what `write_contents` left; it may not be there.
        source: all images of the run.
        unreadable: keys of images that could not be read before: they may be mended.

    Returns:
        What is to be kept for the next time.

    Raises:
        UserError: images came, went or were replaced, or the file is damaged.
    """
    now = read_contents(source)
    if now is None or not file.is_file():
        return now
    before = read_json_as(file, Contents, "Without it the run goes on, and images are not compared.")
    hint = "Restore them, or begin a run in another --out. Nothing was changed."
    if before.identity != now.identity:
        raise UserError(
            f"The images of {source.spec!r} are not those that the run began with: files came or went.", hint
        )
    keys = sampled_keys(source).tolist()
    replaced: list[int] = []
    for ours, theirs in ((now.sizes, before.sizes), (now.hashes, before.hashes)):
        for key, new, old in zip(keys, ours, theirs, strict=False):
            if new is not None and old is not None and new != old and key not in unreadable and key not in replaced:
                replaced.append(key)
    if replaced:
        names = ", ".join(repr(source.images.name(key)) for key in replaced[:NAMED])
        raise UserError(
            f"{len(replaced)} of {len(keys)} images of {source.spec!r} that were compared are not those that the run "
            f"began with: {names}{' …' if len(replaced) > NAMED else ''} changed under the same name.",
            hint,
        )
    return Contents(
        identity=now.identity,
        sizes=[old if new is None else new for new, old in zip(now.sizes, before.sizes, strict=True)],
        hashes=[old if new is None else new for new, old in zip(now.hashes, before.hashes, strict=True)],
    )


def write_contents(file: Path, contents: Contents | None) -> None:
    """Keep it for `check_contents`."""
    if contents is not None:
        write_bytes(file, msgspec.json.encode(asdict(contents)) + b"\n")
