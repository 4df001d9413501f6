"""Who may ask what of the server: the right Host, and the token."""

from __future__ import annotations

import errno
import http.client
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from label_page import Start, rows_of, servers, write_encoder, write_photos

from layergraft.commands.cli import main
from layergraft.commands.label import server as server_module
from layergraft.commands.label.server import HEADER, LabelServer
from layergraft.errors import UserError
from layergraft.runs import atomic

photos = pytest.fixture(scope="module", name="photos")(write_photos)
start = pytest.fixture(name="start")(servers)


def ask(
    server: LabelServer, path: str, body: object = None, host: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    sent = {"Host": host or f"127.0.0.1:{server.server_port}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    text = body if body is None or isinstance(body, str) else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, text, sent)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, content


def token(server: LabelServer, value: str | None = None) -> dict[str, Any]:
    return {HEADER.replace("-", "_"): value or server.token}


def cookie(server: LabelServer, value: str) -> dict[str, Any]:
    return {"Cookie": f"other=1; layergraft-{server.server_port}={value}"}


def test_the_page_and_its_images_need_the_token(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "labels.csv")
    status, headers, page = ask(server, f"/?token={server.token}")
    assert status == 200
    assert server.token.encode() in page
    given = headers["set-cookie"]
    assert given.startswith(f"layergraft-{server.server_port}={server.token};")
    assert "HttpOnly" in given
    assert "SameSite=Strict" in given
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    wrong = "A" * len(server.token)
    for path, sent in (
        ("/", {}),
        (f"/?token={wrong}", {}),
        ("/?token=%FF", {}),
        ("/", cookie(server, wrong)),
        ("/image/0", {}),
        (f"/image/0?token={server.token}", {}),
        ("/image/0", token(server)),
        ("/state", cookie(server, server.token)),  # which pages of other ports send along
        ("/state", token(server, wrong)),
    ):
        status, _, content = ask(server, path, **sent)
        assert status == 403, path
        assert server.token.encode() not in content
    assert ask(server, "/", **cookie(server, server.token))[0] == 200
    status, headers, content = ask(server, "/image/0", **cookie(server, server.token))
    assert (status, headers["content-type"], content[:4]) == (200, "image/png", b"\x89PNG")
    for path in ("/image/90", "/image/-1", "/image/x", "/nowhere", "/assets/label.js", "/../labels.csv"):
        assert ask(server, path, **cookie(server, server.token))[0] == 404


def test_a_foreign_host_is_refused(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "labels.csv")
    port = server.server_port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", f"127.0.0.1:{port}.x"):
        for body in (None, {"path": "a 01.png", "label": "cat", "before": ""}):
            path = f"/?token={server.token}" if body is None else "/answer"
            assert ask(server, path, body, host, **token(server))[0] == 403
    assert ask(server, f"/?token={server.token}", None, f"localhost:{port}")[0] == 200
    assert not (tmp_path / "labels.csv").exists()


def test_an_answer_needs_the_token_in_a_header(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    server = start(file)
    answer = {"path": "a 01.png", "label": "cat", "before": ""}
    assert ask(server, "/answer", answer, **cookie(server, server.token))[0] == 403
    assert ask(server, f"/answer?token={server.token}", answer)[0] == 403
    assert not file.exists()
    for _ in range(2):
        status, _, content = ask(server, "/answer", answer, **token(server))
        assert status == 200
    assert json.loads(content)["labelled"] == 1
    status, _, content = ask(server, "/answer", answer | {"label": "dog"}, **token(server))
    assert (status, json.loads(content)["label"]) == (409, "cat")
    deep = '{"path": ' + "[" * 30_000 + "]" * 30_000 + "}"
    for body in (deep, [], {"path": 1}, {"path": "nowhere"}, answer | {"label": None}, answer | {"before": 0}):
        assert ask(server, "/answer", body, **token(server))[0] in (400, 404)
    assert ask(server, "/answer", {**answer, "label": "x" * 70_000}, **token(server))[0] == 400
    status, _, content = ask(server, "/answer", answer | {"path": "a 02.png", "label": "a\nb"}, **token(server))
    assert status == 422
    assert b"Not saved" in content
    assert rows_of(file)[1:] == [["a 01.png", "cat"]]


def test_a_label_whose_folder_cannot_be_flushed_is_saved(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "labels.csv"
    server = start(file)

    def fails(directory: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "flush_directory", fails)
        status, _, content = ask(server, "/answer", {"path": "a 01.png", "label": "cat", "before": ""}, **token(server))
    state = json.loads(content)
    assert (status, state["labelled"]) == (200, 1)
    assert "is written, but the disk did not confirm it: Input/output error" in state["note"]
    assert rows_of(file)[1:] == [["a 01.png", "cat"]]
    status, _, content = ask(server, "/answer", {"path": "a 02.png", "label": "cat", "before": ""}, **token(server))
    assert (status, json.loads(content)["note"]) == (200, "")


def test_killed_between_the_write_and_its_answer(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tab hears nothing and sends the answer again, to the same server or to the next."""
    file = tmp_path / "labels.csv"
    server = start(file)
    answer = {"path": "a 01.png", "label": "cat", "before": ""}
    with monkeypatch.context() as patch:
        patch.setattr(
            server_module._Handler, "_json", lambda handler, *_: handler.connection.shutdown(socket.SHUT_RDWR)
        )
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(server, "/answer", answer, **token(server))
    assert rows_of(file)[1:] == [["a 01.png", "cat"]]
    for again in (server, start(file)):
        assert ask(again, "/answer", answer, **token(again))[0] == 200
    assert rows_of(file)[1:] == [["a 01.png", "cat"]]


def test_it_listens_on_the_loopback_address_alone(start: Start, tmp_path: Path) -> None:
    server = start(tmp_path / "labels.csv")
    assert server.socket.getsockname()[0] == "127.0.0.1"
    other = start(tmp_path / "other.csv")
    assert other.server_port != server.server_port
    with pytest.raises(UserError, match=f"port {server.server_port}"):
        start(tmp_path / "third.csv", server.server_port)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")  # without a Host
        assert raw.recv(100).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_0(
    number: int, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_encoder(tmp_path / "encoder")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def end() -> None:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=10).close()
                break
            except OSError:
                time.sleep(0.1)
        os.kill(os.getpid(), number)

    threading.Thread(target=end, daemon=True).start()
    words = ["label", "--encoder", str(tmp_path / "encoder"), "--data", str(photos), "--port", str(port)]
    assert main([*words, "--labels", str(tmp_path / "labels.csv")]) == 0
    said = capsys.readouterr()
    assert f"http://127.0.0.1:{port}/?token=" in said.out
    assert f"-L {port}:127.0.0.1:{port}" in said.out
    assert "0 images have labels" in said.err
    assert main([*words, "--labels", "labels.parquet"]) == 2
    assert main([*words, "--labels", "labels.csv", "--number", "0"]) == 2
