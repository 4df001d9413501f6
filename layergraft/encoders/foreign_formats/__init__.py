"""Checkpoints of other projects, a family of formats a file: which keys mark it, which names its tensors get.

To add one: a file with a reader (content, name → `Foreign` or None), and its line in `detect`.
"""
