"""Sources on a web server (on loopback), and what happens where servers do not answer as they should."""

from __future__ import annotations

import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from layergraft.data.decode import BadImage
from layergraft.data.sources.files import Place
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError

NAMES = ["a/0.png", "a/1.png", "b/2.png"]


class Quiet(SimpleHTTPRequestHandler):
    """Python's own, which sends whole files whatever range is asked for."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serves `tmp_path`, in which `images` has a file for each of `NAMES`."""
    for name in NAMES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(name.encode())
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_folders_lists_and_tables_on_a_web_server(server: str, tmp_path: Path) -> None:
    lines = [f"{name} {os.path.dirname(name)}" for name in ("a/../a/0.png", *NAMES[1:])]
    (tmp_path / "images" / "list.txt").write_text("\n".join(lines))
    (tmp_path / "table.csv").write_text("path,label\n" + "".join(f"{name},{name[0]}\n" for name in NAMES))
    for place in ("images", "images/", "images/list.txt", f"table.csv?root={server}/images"):
        source = open_source(f"{server}/{place}")
        assert [source.images.read(key).decode() for key in range(len(source))] == NAMES
        assert len(source) == 3
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "images" / "list.txt").write_text("../secret.png\n/secret.png\na/../../secret.png\n../images/a/0.png")
    source = open_source(f"{server}/images/list.txt")
    for key in range(3):
        with pytest.raises(BadImage, match="outside"):
            source.images.read(key)
    assert source.images.read(3) == b"a/0.png"


def test_a_server_that_sends_more_than_was_asked_for_gives_no_garbage(server: str, tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="7 bytes came instead of 2"):
        Place(f"{server}/images/a/0.png").read(3, 5)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "images", "images")
    source = open_source(f"{server}/x.tar")
    with pytest.raises(BadImage, match="bytes came instead of 7"):
        source.images.read(0)


@pytest.mark.parametrize("name", ["images", "images/list.txt", "images/{0..2}.tar"])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_server_that_is_not_there_is_named(scheme: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        if scheme == "s3":
            s3fs = pytest.importorskip("s3fs")
            s3fs.S3FileSystem.clear_instance_cache()
            for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                monkeypatch.setenv(key, "test")
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        root = f"http://{address}" if scheme == "http" else "s3://bucket"
        with pytest.raises(UserError, match=r"cannot be read: .*onnect|There is no"):
            open_source(f"{root}/{name}")
        with pytest.raises(BadImage, match=r"unreadable: .*onnect"):
            Place(f"{root}/images/a.png").read()
    if scheme == "s3":
        s3fs.S3FileSystem.clear_instance_cache()
