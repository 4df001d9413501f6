"""`python -m layergraft` is `layergraft`."""

from layergraft.commands.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
