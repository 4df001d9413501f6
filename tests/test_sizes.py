"""No file and no function of the package is longer than one reading."""

from __future__ import annotations

import ast
from pathlib import Path

import layergraft

PACKAGE = Path(layergraft.__file__).parent
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 80


def test_files_and_functions_are_short() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 200
    long = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > LINES_OF_A_FILE:
            long.append(f"{file.relative_to(PACKAGE)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > LINES_OF_A_FUNCTION:
                    long.append(f"{file.relative_to(PACKAGE)}, {node.name}: {lines} lines")
    assert not long
