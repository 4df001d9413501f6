"""The full depth of formats of which Pillow keeps 8 bits, by the package imagecodecs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from layergraft.data.decode.picture import BadImage, Picture, Request
from layergraft.data.decode.pillow import read_pillow


def load_codecs(what: str) -> Any:
    """The package; without it `what`, a kind of file, is refused."""
    try:
        import imagecodecs
    except ImportError:
        raise BadImage(f"{what}, which needs the package imagecodecs") from None
    return imagecodecs


def deep_or_eight_bits(read: Callable[[], Picture], content: bytes, bits: int, request: Request) -> Picture:
    """Colours at full depth where a range or all channels are wanted; else the 8 bits that Pillow keeps.

    Args:
        read: gives them at full depth, or raises `BadImage`.
        content: the file.
        bits: of a channel.
        request: what is wanted.

    Raises:
        BadImage: it is damaged, or a range is wanted of numbers that cannot be had.
    """
    if not request.as_stored and request.options.range is None:
        return read_pillow(content, request)
    try:
        return read()
    except BadImage as reason:
        if request.options.range is not None:
            raise
        picture = read_pillow(content, request)
        return replace(picture, remarks=(*picture.remarks, f"{bits} bits a channel, of which 8 are read: {reason}"))
