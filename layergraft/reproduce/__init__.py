"""The claims of layer grafting on this machine: every arm from recipes, searched alike, with error bars."""

from layergraft.callable_package import make_callable

make_callable(__name__)
