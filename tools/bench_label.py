"""Time `layergraft label` in a browser: from the key press of an answer to the guesses of the refitted classifier.

Synthetic features of the two sizes that are promised; the file holds thirty labels, and twenty more are given, one a
second, as a person does. The time is the browser's own, from the key press until the page has drawn guesses of a
classifier that knows the answer. The last line is one JSON object; `cpu` is the server's processor time an answer
with all that goes on in the background (calibration, accuracy, picks), in seconds.

    python tools/bench_label.py

It needs playwright and chromium.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from layergraft.commands.bench.logistic import features_like_an_encoders
from layergraft.commands.label.background import Background
from layergraft.commands.label.labels_file import LabelsFile
from layergraft.commands.label.run import quick_turns
from layergraft.commands.label.server import LabelServer
from layergraft.commands.label.session import Session
from layergraft.data.arrays import Pixels
from layergraft.data.decode import BadImage
from layergraft.data.sources.source import EncodedImages, Source

SIZES = ((12_000, 128, 0.2), (100_000, 384, 1.0))  # images, width, promised seconds
CLASSES, GIVEN, ANSWERS = 9, 30, 20
MEASURE = """number => new Promise(done => {
    const began = performance.now();
    const key = new KeyboardEvent("keydown", { key: String(number), bubbles: true });
    const wanted = parseInt(document.getElementById("progress").textContent) + 1;
    const root = document.documentElement;
    const watch = new MutationObserver(() => {
        if (Number(root.dataset.fitted) < wanted) return;
        watch.disconnect();
        requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
    });
    watch.observe(root, { attributes: true });
    document.body.dispatchEvent(key);
})"""


class _Grey(EncodedImages):
    """Images that are all alike: decoding them is no part of what is measured."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{index:06d}.png"

    def read(self, index: int) -> bytes:
        raise BadImage("made in memory: there is no file")

    def load(self, index: int, channels: int, reduction: object = None) -> Pixels:
        return np.full((36, 36, channels), index % 256, dtype=np.uint8)


def measure(images: int, width: int, promised: float) -> dict[str, Any]:
    """Median and worst time of an answer, in seconds."""
    features, labels = features_like_an_encoders(images, width, CLASSES)
    source = Source(spec="synthetic", images=_Grey(images), keys=np.arange(images, dtype=np.int64))
    with tempfile.TemporaryDirectory() as folder, quick_turns(), sync_playwright() as playwright:
        file = Path(folder) / "labels.csv"
        file.write_text("path,label\n" + "".join(f"{row:06d}.png,class {labels[row]}\n" for row in range(GIVEN)))
        session = Session(source, features, LabelsFile(str(file), source), GIVEN + ANSWERS)
        server, background = LabelServer(session, 1, 0), Background(session)
        background.start()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(server.url)
        page.locator("#next button").first.wait_for(state="attached", timeout=300_000)
        page.locator("#curve svg").wait_for(timeout=300_000)
        time.sleep(5)
        times, began = [], time.process_time()
        for _ in range(ANSWERS):
            page.locator("#name", has_text=".png").wait_for(timeout=300_000)
            row = int(page.text_content("#name").partition(".")[0])
            key = session.classes.index(f"class {labels[row]}") + 1
            times.append(page.evaluate(MEASURE, key) / 1000)
            time.sleep(1)
        cpu = (time.process_time() - began) / ANSWERS
        browser.close()
        session.close()
        server.shutdown()
        server.server_close()
        background.join()
    found = {"images": images, "width": width, "promised": promised, "median": statistics.median(times)}
    return found | {"worst": max(times), "cpu": cpu}


def main() -> None:
    """Measure both sizes."""
    cases = []
    for images, width, promised in SIZES:
        case = measure(images, width, promised)
        cases.append(case)
        print(
            f"{images:,} images of width {width}: {1000 * case['median']:.0f} ms (worst {1000 * case['worst']:.0f} ms; "
            f"promised {1000 * promised:.0f} ms), {case['cpu']:.2f} s of processor time an answer"
        )
    print(json.dumps({"cases": cases}))


if __name__ == "__main__":
    main()
