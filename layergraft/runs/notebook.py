"""What notebooks show of a result: tables."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from layergraft.errors import UserError


def data_frame(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Any:
    """Give rows as a data frame of pandas.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UserError("A data frame needs pandas.", "pip install pandas") from None
    return pandas.DataFrame(list(rows), columns=list(columns))


def html_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Give rows as a table of HTML under a title."""
    lines = [_line("th", columns), *(_line("td", row) for row in rows)]
    return f"<p>{html.escape(title)}</p><table>{''.join(lines)}</table>"


def _line(tag: str, cells: Sequence[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)}</tr>"
