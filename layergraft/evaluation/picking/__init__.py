"""Which images to label next: a method a file, `methods` lists them, `pool` is what they pick from.

To add one: a file with a generator of picks that does not know how many are wanted, and its line in `methods`.
"""
