"""Take the documentation's pictures from a run's report, as a reader would: open it in Chromium, download the SVGs.

python tools/docs_pictures.py runs/demo      (after `layergraft analyze --encoder runs/demo --data … --what all`)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
# Picture -> how the figure's name begins in the page.
WANTED = {
    "few-shot": "few-shot",
    "reconstruct": "reconstruct",
    "neighbours": "neighbours",
    "conflict-share": "conflict-share",
    "learning-rates": "learning-rates",
    "layer-probe": "layer-probe",
    "cka": "cka",
    "pca": "pca",
}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]


@contextmanager
def opened(file: Path) -> Iterator[Page]:
    """A page in Chromium, light."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 820, "height": 900}, color_scheme="light", device_scale_factor=2)
        page.goto(file.resolve().as_uri())
        yield page
        browser.close()


def save_svg(page: Page, start: str, name: str) -> None:
    """Download a figure into docs/pictures, on white so that it can be read on a dark page, too.

    Args:
        page: a report.
        start: how the figure's name begins in it.
        name: of the picture.
    """
    file = PICTURES / f"{name}.svg"
    with page.expect_download() as download:
        # Buttons show up where somebody points at the figure, and some figures are folded away.
        page.locator(f'[data-figure^="{start}"] [data-do="svg"]').first.evaluate("button => button.click()")
    download.value.save_as(file)
    text = file.read_text(encoding="utf-8")
    end = text.index(">", text.index("<svg")) + 1
    file.write_text(text[:end] + '<rect width="100%" height="100%" fill="white"/>' + text[end:], encoding="utf-8")


def main(run: Path) -> None:
    """Write docs/pictures: SVGs, and one screenshot."""
    with opened(run / "report.html") as page:
        for name, start in WANTED.items():
            save_svg(page, start, name)
        # A dot per image makes a large SVG.
        chart = page.locator('[data-figure^="conflict-graft"] > .chart')
        chart.scroll_into_view_if_needed()
        chart.locator("svg").wait_for()
        chart.screenshot(path=PICTURES / "conflict.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
