"""In which order an epoch takes the images: any order, or one that reads remote files block by block.

Blocks are runs of neighbouring images that one request brings. An epoch puts them into a random order, cuts it into 16
equal streams (the virtual shards, fixed however many processes there are), shuffles each stream within windows of 4
blocks, and deals every batch from all streams, to each its own place in the batch. So the order is that of a function,
as any other; a process reads the streams of its part of the batch; and a batch comes from 64 blocks.
"""

from __future__ import annotations

import numpy as np

from layergraft.data.arrays import Indices
from layergraft.data.randomness import Randomness

STREAMS = 16
WINDOW = 4


def streams_of(batch_size: int) -> int:
    """How many streams a batch is dealt from: 16, or the largest number below it that divides the batch."""
    return max(count for count in range(1, STREAMS + 1) if batch_size % count == 0)


def epoch_order(
    random: Randomness, keys: Indices, epoch: int, batch_size: int, starts: Indices | None = None
) -> Indices:
    """The order of an epoch: step n takes the `batch_size` places from n * `batch_size` on.

    Args:
        random: the stage's randomness.
        keys: sample keys, of shape (N,).
        epoch: another epoch has another order.
        batch_size: images of a global batch.
        starts: the first key of each block, ascending from 0; None takes the images in any order.

    Returns:
        Positions in `keys`, of shape (N,), or, with blocks, for whole batches alone.
    """
    if starts is None:
        return random.permutation("order", keys, epoch)
    # The rank of each image's block in a random order of the blocks that hold any of `keys`.
    block = np.searchsorted(starts, keys, side="right") - 1
    present, block = np.unique(block, return_inverse=True)
    rank = np.empty(len(present), dtype=np.int64)
    rank[random.permutation("blocks", present, epoch)] = np.arange(len(present))
    rank = rank[block]
    # All images, block by block in that order, cut into streams of one length.
    steps, streams = len(keys) // batch_size, streams_of(batch_size)
    sequence = np.argsort(rank, kind="stable")[: steps * batch_size]
    stream = np.repeat(np.arange(streams), steps * batch_size // streams)
    # Within a window of blocks of one stream the images' own random numbers decide.
    words = random.long_words("within blocks", keys[sequence], epoch)
    sequence = sequence[np.lexsort((words, rank[sequence] // WINDOW, stream))]
    # Of shape (streams, steps, images of a stream in a batch): a batch takes from each stream in turn.
    return sequence.reshape(streams, steps, -1).transpose(1, 0, 2).ravel()
