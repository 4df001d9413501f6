"""What several tests share: recorded numbers, a small recipe, a browser, and threads within the machine's two cores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch

import layergraft
from layergraft.config import Recipe, load_recipe

if TYPE_CHECKING:
    from layergraft.runs.layout import Run

Open = Callable[..., Any]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
FIXTURES = Path(__file__).with_name("fixtures")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features that tests cache go to a folder of the test session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERGRAFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo as a newcomer runs it, MoCo v3 from scratch beside it: minutes, for slow tests."""
    return layergraft.demo(out=str(tmp_path_factory.mktemp("demo") / "run"), baseline=True)


@pytest.fixture
def fixtures() -> Path:
    return FIXTURES


def assert_close(ours: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal to `tolerance` of the expected tensor's largest entry."""
    worst = float((ours - expected).detach().abs().max())
    assert worst <= tolerance * float(expected.detach().abs().max().clamp(min=1e-12)), worst


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page; at the end nothing may have gone wrong or been asked from any address."""
    trouble: list[str] = []
    contexts: list[Any] = []

    def visit_page(path: Path, width: int = 1280, theme: str = "light") -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        address = path.resolve().as_uri()
        page.on("console", lambda m: trouble.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda r: None if r.url.startswith(("data:", "blob:", address)) else trouble.append(f"request: {r.url}"),
        )
        page.goto(address)
        return page

    yield visit_page
    for context in contexts:
        context.close()
    assert trouble == []


def scroll_through(page: Any) -> None:
    for chart in page.locator("[data-figure] > .chart:visible").all():  # not those of a closed fold
        chart.scroll_into_view_if_needed()
        chart.locator("svg").first.wait_for()


def from_menu(page: Any, figure: str, what: str) -> None:
    """Click an entry of a figure's menu."""
    card = page.locator(f"[data-figure{figure}]").first
    card.locator(".menu summary").click()
    card.locator(f'[data-do="{what}"]').click()


@pytest.fixture
def colour_folder(tmp_path: Path) -> Path:
    """48 unlabelled colour images, JPEG and PNG, of mixed sizes."""
    random = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(48):
        small = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        image = cv2.resize(small, tuple(int(x) for x in random.integers(30, 90, 2)), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"image {index}.{'png' if index % 2 else 'jpg'}"), image)
    return folder


def two_classes(root: Path, count: int) -> Path:
    """Write `count` colour images of 20 pixels, in turn into two class folders."""
    for index, own in enumerate(np.random.default_rng(1).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)):
        (root / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "ab"[index % 2] / f"{index:02d}.png"), cv2.resize(own, (20, 20)))
    return root


@pytest.fixture
def tiny_recipe() -> Recipe:
    """Both stages, a few steps each, on 320 of the built-in images."""
    return load_recipe("fashion_paper", TINY)


TINY = {
    "data.source": "builtin:fashion-canvas?fraction=0.027",
    "data.holdout": 64,
    "encoder.embed_dim": 32,
    "encoder.depth": 3,
    "encoder.num_heads": 2,
    "stages.mae.epochs": 3,
    "stages.mae.batch_size": 32,
    "stages.graft.epochs": 2,
    "stages.graft.batch_size": 32,
    "stages.graft.objective.projector": [64, 64, 16],
    "stages.graft.objective.predictor": [64, 16],
    "stages.graft.plan.lr_scale": [0.25, 0.5, 1],
    "engine.log_every": 1,
    "monitor.every": 1,
    "evaluate.shots": [1, 2],
    "evaluate.splits": 2,
    "analyze": ["reconstruct", "neighbours"],
}
