"""Images of three classes that features tell apart, a session on them, and its server."""

from __future__ import annotations

import contextlib
import csv
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from layergraft.commands.label.background import Background
from layergraft.commands.label.labels_file import LabelsFile
from layergraft.commands.label.server import LabelServer
from layergraft.commands.label.session import Session
from layergraft.config import EncoderConfig
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.evaluation.features import center_and_normalize

CLASSES = ("cat", "dog", "emu")
Start = Callable[..., LabelServer]


def write_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 images, of the classes in turn."""
    root = tmp_path_factory.mktemp("label") / "photos"
    root.mkdir()
    random = np.random.default_rng(0)
    for index in range(90):
        image = np.full((30, 40, 3), 40 + 70 * (index % 3), dtype=np.uint8)
        image[8:22, 10:30] = random.integers(0, 256, (14, 20, 3))
        cv2.imwrite(str(root / f"a {index:02d}.png"), image)
    return root


def class_of(path: str) -> str:
    return CLASSES[int(path[2:4]) % 3]


def session_of(photos: Path, file: Path, goal: int = 30, error: float = 0.1) -> Session:
    source = open_source(str(photos))
    random = np.random.default_rng(1)
    centres = random.standard_normal((3, 16))
    names = [source.images.name(int(key)) for key in source.keys]
    features = np.stack([centres[CLASSES.index(class_of(name))] for name in names])
    features = center_and_normalize((features + 0.5 * random.standard_normal(features.shape)).astype(np.float32))
    return Session(source, features, LabelsFile(str(file), source), goal, error)


def write_encoder(folder: Path) -> None:
    config = EncoderConfig(
        name="vit_tiny_patch16_224", img_size=36, in_chans=3, patch_size=9, embed_dim=32, depth=2, num_heads=2
    )
    save_encoder(create_encoder(config, 0), folder, {})


def rows_of(file: Path) -> list[list[str]]:
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def servers(photos: Path) -> Iterator[Start]:
    """Starts a server of a labels file."""
    started: list[tuple[LabelServer, Background]] = []

    def start_server(file: Path, port: int = 0, goal: int = 30) -> LabelServer:
        session = session_of(photos, file, goal)
        server = LabelServer(session, 3, port)
        background = Background(session)
        background.start()
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        started.append((server, background))
        return server

    yield start_server
    for server, background in started:
        server.session.close()
        with contextlib.suppress(OSError):
            server.shutdown()
            server.server_close()
        background.join()
