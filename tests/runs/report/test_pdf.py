"""Figures as PDF files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from layergraft.errors import UserError
from layergraft.runs.figure import Figure, field
from layergraft.runs.report.pdf import CONFIG, INK, LINE, SOFT, complete_spec, write_pdfs

ASSETS = Path(complete_spec.__code__.co_filename).with_name("assets")
LINES = Figure(
    name="loss graft/1",
    title="Loss",
    caption="It falls.",
    data=[{"step": step, "loss": 1 / step} for step in range(1, 9)],
    spec={"mark": "line", "encoding": {"x": field("step", "quantitative"), "y": field("loss", "quantitative")}},
    height=200,
)


def test_each_figure_is_a_pdf_of_its_size(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    (file,) = write_pdfs([LINES], tmp_path / "figures")
    assert file.name == "loss-graft-1.pdf"
    content = file.read_bytes()
    assert content.startswith(b"%PDF")
    box = re.search(rb"/MediaBox\s*\[\s*0 0 (\d+)\S* (\d+)", content)
    assert box is not None
    assert (int(box[1]), int(box[2])) == (430, 200)
    with pytest.raises(UserError, match="not an empty directory"):
        write_pdfs([LINES], tmp_path / "figures")
    assert file.read_bytes() == content


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UserError, match=r"layergraft\[figures\]"):
        write_pdfs([LINES], tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_colours_are_those_of_the_page() -> None:
    script, style = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.js", "report.css"))
    palette = re.search(r"PALETTE = \[(.*?)\]", script)
    assert palette is not None
    assert re.findall("#[0-9a-f]{6}", palette[1]) == CONFIG["range"]["category"]
    assert f"--ink: {INK}; --soft: {SOFT}; --line: {LINE};" in style
