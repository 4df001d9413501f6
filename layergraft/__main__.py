"""`python -m layergraft` is `layergraft`."""

from layergraft.commands.cli import console

if __name__ == "__main__":
    raise SystemExit(console())
