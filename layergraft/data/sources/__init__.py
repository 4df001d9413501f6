"""Sources of images: what a user names, and where pixels, keys and labels come from. One kind a file.

To add one: a file with a function that returns a `Source` (see `source`), and its line in `open`.
"""
