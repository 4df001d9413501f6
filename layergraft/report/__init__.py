"""One HTML page from a run directory."""

from layergraft.callable_package import make_callable

make_callable(__name__)
