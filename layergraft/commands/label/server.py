"""The server of the page: on the loopback address alone, for whoever has the token.

Other pages in the same browser can send requests here, and a foreign name can be made to lead here (DNS rebinding). So
the Host header must be this address, the page and its images need a cookie that no other site can send, and whatever
reads or changes labels needs the token in a header, which no other page can know.
"""

from __future__ import annotations

import json
import secrets
import socketserver
import sys
from functools import cached_property
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jinja2

from layergraft.commands.label.pictures import CARD, LARGE, picture
from layergraft.commands.label.session import RULE, Conflict, Session
from layergraft.data.decode import BadImage
from layergraft.errors import UserError

ADDRESS = "127.0.0.1"
FIRST_PORT, _TRIED = 8765, 20
HEADER = "X-Layergraft-Token"
_ASSETS = Path(__file__).with_name("assets")
_PATIENCE = 20.0  # seconds that a tab waits for news
_LARGEST_BODY = 2**16


class LabelServer(ThreadingHTTPServer):
    """Serves one session.

    Args:
        session: what is labelled.
        channels: of the images' pixels.
        port: to listen on; 0 takes 8765, or the next that is free.

    Raises:
        UserError: another program listens on the port.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, session: Session, channels: int, port: int) -> None:
        self.session, self.channels = session, channels
        self.token = secrets.token_urlsafe()
        ports = [port] if port else [*range(FIRST_PORT, FIRST_PORT + _TRIED), 0]
        for number in ports:
            try:
                super().__init__((ADDRESS, number), _Handler)
            except OSError as error:
                if number == ports[-1]:
                    raise UserError(
                        f"Cannot listen on port {number}: {error.strerror}.", "Give another --port, or none."
                    ) from None
                continue
            return

    def server_bind(self) -> None:
        """Bind without a look-up of the machine's name, which http.server would ask the network for."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self.server_port}/?token={self.token}"

    def fits(self, token: str | None) -> bool:
        """Whether it is the token, compared in a time that says nothing of it."""
        return token is not None and secrets.compare_digest(token.encode(), self.token.encode())

    @cached_property
    def template(self) -> jinja2.Template:
        """Of the page."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_ASSETS), autoescape=True, undefined=jinja2.StrictUndefined
        )
        return environment.get_template("label.html.jinja")


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 20


class _Refused(Exception):
    """A request that gets no answer but a status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "layergraft", ""
    timeout = 120
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: addresses hold the token."""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, give: Any) -> None:
        try:
            self._check_host()
            give()
        except _Refused as refused:
            self.close_connection = True  # perhaps with a body that nobody has read
            self._send(refused.status, "application/json", json.dumps({"error": str(refused)}).encode())
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    def _check_host(self) -> None:
        port = self.server.server_port
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0] not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
            raise _Refused(HTTPStatus.FORBIDDEN, f"This is {ADDRESS}:{port} and nothing else.")

    def _check_header(self) -> None:
        if not self.server.fits(self.headers.get(HEADER)):
            raise _Refused(HTTPStatus.FORBIDDEN, "The token is missing or of another server.")

    @property
    def _cookie_name(self) -> str:
        return f"layergraft-{self.server.server_port}"

    def _cookie(self) -> str | None:
        try:
            morsel = SimpleCookie(self.headers.get("Cookie", "")).get(self._cookie_name)
        except CookieError:
            return None
        return None if morsel is None else morsel.value

    def _get(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        if address.path == "/":
            self._page(query.get("token"))
        elif address.path == "/state":
            self._check_header()
            version = query.get("since", "")
            session = self.server.session
            seen = int(version) if _is_number(version) else -1
            news = session.wait(seen, _PATIENCE)
            if session.closed:
                raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "The server is ending.")
            self._json(HTTPStatus.OK, news)
        elif address.path.startswith("/image/"):
            self._picture(address.path.removeprefix("/image/"), large="large" in query)
        else:
            raise _Refused(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def _page(self, token: str | None) -> None:
        if not self.server.fits(token) and not self.server.fits(self._cookie()):
            raise _Refused(HTTPStatus.FORBIDDEN, "Open the address that `layergraft label` printed, with its token.")
        nonce = secrets.token_urlsafe(16)
        page = self.server.template.render(
            token=self.server.token,
            nonce=nonce,
            rule=RULE,
            style=(_ASSETS / "label.css").read_text(encoding="utf-8"),
            script=(_ASSETS / "label.js").read_text(encoding="utf-8"),
        )
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        cookie = f"{self._cookie_name}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
        self._send(
            HTTPStatus.OK,
            "text/html; charset=utf-8",
            page.encode(errors="replace"),
            {"Content-Security-Policy": policy, "Set-Cookie": cookie},
        )

    def _picture(self, number: str, large: bool) -> None:
        if not self.server.fits(self._cookie()):
            raise _Refused(HTTPStatus.FORBIDDEN, "The token is missing or of another server.")
        source = self.server.session.source
        if not _is_number(number) or int(number) >= len(source):
            raise _Refused(HTTPStatus.NOT_FOUND, "There is no such image.")
        try:
            kind, content = picture(source, int(number), self.server.channels, LARGE if large else CARD)
        except BadImage as error:
            raise _Refused(HTTPStatus.NOT_FOUND, f"The image cannot be read: {error}.") from None
        self._send(HTTPStatus.OK, kind, content)

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not _is_number(length) or int(length) > _LARGEST_BODY:
            raise _Refused(HTTPStatus.BAD_REQUEST, "A request has a body of a known, small length.")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):  # the latter: brackets in brackets without end
            raise _Refused(HTTPStatus.BAD_REQUEST, "The request is no JSON.") from None
        if not isinstance(body, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "The request is no JSON object.")
        return body

    def _post(self) -> None:
        self._check_header()
        session, body = self.server.session, self._body()
        path = body.get("path")
        if not isinstance(path, str) or path not in session.file.named:
            raise _Refused(HTTPStatus.NOT_FOUND, f"There is no image {path!r} in the source.")
        if self.path == "/skip":
            session.skip(path, back=body.get("back") is True)
        elif self.path == "/answer":
            label, before = body.get("label"), body.get("before")
            if not isinstance(label, str) or not isinstance(before, str):
                raise _Refused(HTTPStatus.BAD_REQUEST, "An answer has a label, and what it was before.")
            try:
                session.answer(path, label, before)
            except Conflict as error:
                if session.closed:
                    raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "The server is ending.") from None
                self._json(HTTPStatus.CONFLICT, {"error": "labelled meanwhile", "label": str(error)})
                return
            except (UserError, OSError) as error:
                raise _Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"Not saved. {error}") from None
        else:
            raise _Refused(HTTPStatus.NOT_FOUND, "There is nothing here.")
        self._json(HTTPStatus.OK, session.state())

    def _json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        fixed = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in (fixed | (headers or {})).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
