"""The commands: the command line, the public functions, and one file (or package) a command for what it alone does.

To add one: a function in `api`, which is its help and its arguments, and the name in `layergraft/__init__.py`.
"""
