"""What a command says on stderr besides its results."""

from __future__ import annotations

import os
import sys


def announce(*sentences: str) -> None:
    """Tell the user, once over all processes, what was found in what was named, or made of it."""
    if os.environ.get("RANK", "0") == "0":
        for sentence in sentences:
            print(sentence, file=sys.stderr)
