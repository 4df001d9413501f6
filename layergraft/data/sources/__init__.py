"""Sources of images: what a user names, and where pixels, keys and labels come from. One kind a file."""

from layergraft.data.sources.holdout import split_holdout
from layergraft.data.sources.opening import default_test_source, open_source
from layergraft.data.sources.source import Image, Images, Source

__all__ = ["Image", "Images", "Source", "default_test_source", "open_source", "split_holdout"]
