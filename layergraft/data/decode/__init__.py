"""From the bytes of a file to pixels: one reader a kind of file."""

from layergraft.data.decode.colours import match_channels as match_channels
from layergraft.data.decode.options import ReadOptions as ReadOptions
from layergraft.data.decode.picture import MAX_PIXELS as MAX_PIXELS
from layergraft.data.decode.picture import BadImage as BadImage
from layergraft.data.decode.picture import Reduction as Reduction
from layergraft.data.decode.readers import decode as decode
