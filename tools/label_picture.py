"""Take docs/pictures/label.png: `layergraft label` on a run, answered 29 times by keyboard as the images are labelled.

python tools/label_picture.py runs/demo
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from layergraft.data.sources.open import open_source

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "label.png"
DATA, GOAL = "builtin:fashion-canvas", 30
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]
PATIENCE = 120_000  # milliseconds


def label(url: str, class_of: dict[str, str], answers: int) -> None:
    """Answer, wait until the page has judged all answers, and take the picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1080, "height": 900}, color_scheme="light")
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        for number in range(1, answers + 1):
            page.locator("#name", has_text=re.compile("^image ")).wait_for()
            page.keyboard.type(class_of[page.inner_text("#name")])
            page.keyboard.press("Shift+Enter")
            page.locator("#progress", has_text=re.compile(rf"^{number} ")).wait_for()
        page.locator("#verdict", has_text=f"with {answers} labels").wait_for()
        page.locator("#advice", has_text="doubling").wait_for()
        page.locator("#guess b").wait_for()
        page.wait_for_timeout(2000)  # the earlier points of the curve
        page.locator("#current").focus()
        bottom = page.evaluate("document.getElementById('quality').getBoundingClientRect().bottom + window.scrollY")
        page.set_viewport_size({"width": 1080, "height": round(bottom) + 16})
        page.screenshot(path=PICTURE)
        browser.close()
    Image.open(PICTURE).convert("RGB").quantize(128).save(PICTURE, optimize=True)


def main(run: Path) -> None:
    """Serve the page of an empty labels file, and label."""
    source = open_source(DATA)
    names = [source.images.name(int(key)) for key in source.keys]
    class_of = {name: source.classes[label] for name, label in zip(names, source.selected_labels, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "layergraft", "label", "--encoder", str(run), "--data", DATA]
        words += ["--labels", f"{folder}/labels.csv", "--number", str(GOAL)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ) as server:  # noqa: S603
            assert server.stdout is not None
            url = re.search(r"http://\S+", server.stdout.readline())
            assert url is not None
            label(url.group(), class_of, GOAL - 1)
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
