"""Read damaged files of one reader in a process of its own, whose end, by whatever fault, is no end of the test.

python reading_child.py READER SEED FIRST COUNT PROGRESS: a line a bug on standard output; PROGRESS holds the number of
the file that is being read.
"""

from __future__ import annotations

import random
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import numpy as np
from field_files import KINDS, PICTURE
from fuzzing import mutate

from layergraft.data.decode import BadImage, decode
from layergraft.data.decode.options import ReadOptions, parse_read_options
from layergraft.data.decode.picture import Request
from layergraft.data.decode.readers import READERS, read_picture

SECONDS, GIGABYTES, HEAD = 20.0, 6, 400
QUERIES = ["", "", "range=0,4095", "channels=1", "channels=2,1&range=0,9;1,5", "z=max", "z=mean", "page=2", "z=2"]


def contents_of(reader: str) -> dict[str, bytes]:
    """Kind -> a file that this reader takes; Pillow's kinds are told apart by the first word of their name."""
    small, contents = PICTURE[:24, :30], {}
    for name, kind in KINDS.items():
        content = kind.write(small)
        taken = next(reader for reader in READERS if reader.knows(content)).name
        if (name.partition(",")[0] if taken == "image" else taken) == reader:
            contents[name] = content
    return contents


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Changed anywhere, or in its head, where sizes and types stand; now and then whole."""
    if rng.random() < 0.4:  # a few bytes alone, so that more of the file is read
        changed = bytearray(content)
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(min(HEAD, len(content)) if rng.random() < 0.6 else len(content))
            changed[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        return bytes(changed)
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        start = HEAD if rng.random() < 0.6 else len(content)
        content = mutate(content[:start], rng) + content[start:]
    return content


def bug_in(content: bytes, rng: random.Random) -> str:
    """What reading raises, or gives, that is neither refused nor pixels."""
    channels = rng.choice([1, 3, 3, 5])
    query = rng.choice(QUERIES)
    options = parse_read_options(dict(p.split("=") for p in query.split("&") if p), "x") if query else ReadOptions()
    try:
        if rng.random() < 0.3:
            stored = read_picture(content, Request(channels=channels, options=options, whole=True)).array
            fine = stored.ndim == 3 and 0 not in stored.shape and stored.dtype.kind in "buif"
            return "" if fine else f"a picture of shape {stored.shape}, {stored.dtype}"
        pixels = decode(content, channels, options=options)
        fine = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == channels and 0 not in pixels.shape
        return "" if fine else f"pixels of shape {pixels.shape}, {pixels.dtype}"
    except BadImage as error:
        return "" if str(error) else "no reason"
    except Exception as error:
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "layergraft/" in f.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        return f"{where} {type(error).__name__}: {str(error)[:120]}"


def tries(reader: str, seed: int, first: int, count: int, progress: Path) -> Iterator[str]:
    contents = contents_of(reader)
    kinds = sorted(contents)
    with open(progress, "r+b", buffering=0) as file:
        for number in range(first, first + count):
            rng = random.Random(f"{reader} {seed} {number}")
            kind = rng.choice(kinds)
            file.seek(0)
            file.write(f"{number:8d} {kind:40s}".encode())
            # A signal that nobody handles ends the process, in a library's loop too; processor time, not the clock.
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            found = bug_in(damaged(contents[kind], rng), rng)
            if found:
                yield f"{found} ({kind}, {number})"
    signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    reader, seed, first, count, progress = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES * 2**30,) * 2)
    for line in tries(reader, int(seed), int(first), int(count), Path(progress)):
        print(" ".join(line.split()), flush=True)


if __name__ == "__main__":
    main()
