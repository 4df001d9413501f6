"""The page in a real browser: what a person does, and what may happen meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from label_page import Start, class_of, rows_of, servers, write_encoder, write_photos

from layergraft.commands.label.server import LabelServer

photos = pytest.fixture(scope="module", name="photos")(write_photos)
start = pytest.fixture(name="start")(servers)
Visit = Callable[..., Any]


@pytest.fixture
def tab(chromium: Any) -> Iterator[Visit]:
    """Opens a tab of a server; nothing may go wrong but what a test names, nor be asked of any other address."""
    trouble: list[str] = []
    contexts: list[Any] = []

    def open_tab(url: str, beside: Any = None, expected: str = "", **options: Any) -> Any:
        if beside is None:
            contexts.append(chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        page = (contexts[-1] if beside is None else beside.context).new_page()
        page.set_default_timeout(20_000)
        origin = url.partition("?")[0]

        def note(text: str) -> None:
            if not expected or not re.search(expected, text):
                trouble.append(text)

        page.on("console", lambda message: note(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((origin, "data:")) else trouble.append(f"asked: {asked.url}"),
        )
        page.goto(url)
        return page

    yield open_tab
    for context in contexts:
        context.close()
    assert trouble == []


def shown(page: Any) -> str:
    """The path of the image that is asked about, once there is one."""
    page.locator("#name", has_text=".png").wait_for()
    return str(page.text_content("#name"))


def progress(page: Any, labels: int) -> None:
    """Wait until the server has so many labels."""
    page.locator("#progress", has_text=re.compile(rf"^{labels} ")).wait_for()
    page.locator("#saved", has_text=re.compile("^(saved)?$")).wait_for(state="attached")


def type_class(page: Any, name: str) -> None:
    page.keyboard.type(name)
    page.keyboard.press("Shift+Enter")


def test_forty_answers_by_keyboard_alone(start: Start, tab: Visit, tmp_path: Path) -> None:
    """New classes are typed, then digits; two are undone and given again, two skipped; the file holds exactly these."""
    file = tmp_path / "labels.csv"
    page = tab(start(file, goal=40).url)
    expected: dict[str, str] = {}
    known: list[str] = []
    while len(expected) < 40:
        path = shown(page)
        assert path not in expected
        label = class_of(path)
        if label not in known:
            type_class(page, label)
            known.append(label)
        else:
            page.keyboard.press(str(known.index(label) + 1))
        expected[path] = label
        if len(expected) in (5, 20):
            assert shown(page) != path
            page.keyboard.press("Backspace")
            del expected[path]
            page.locator("#name", has_text=path).wait_for()
            progress(page, len(expected))
            page.keyboard.press(str(known.index(label) + 1))
            expected[path] = label
        elif len(expected) in (10, 30):
            skipped = shown(page)
            page.keyboard.press("0")
            assert shown(page) != skipped
    progress(page, 40)
    assert dict(rows_of(file)[1:]) == expected
    assert len(rows_of(file)) == 41
    page.wait_for_selector("#guess b")
    page.wait_for_selector("#curve svg")
    assert "95 % interval" in page.text_content("#verdict")
    assert "of the 50 other images are sure at an error rate of 10 %" in page.text_content("#sure")
    assert page.text_content("#progress") == "40 labels, goal 40"


def test_guess_typing_zoom_and_moving(start: Start, tab: Visit, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("path,label\n" + "".join(f"a {n:02d}.png,{class_of(f'a {n:02d}.png')}\n" for n in range(9)))
    page = tab(start(file).url)
    page.wait_for_selector("#guess b")
    path, guess = shown(page), page.text_content("#guess b").rstrip("?")
    page.keyboard.press("Space")
    assert page.locator("#large").is_visible()
    page.locator("#whole.small").wait_for()  # it has come
    assert page.evaluate("document.getElementById('whole').naturalWidth") == 40
    page.keyboard.press("Escape")
    assert not page.locator("#large").is_visible()
    page.keyboard.press("Enter")  # takes the guess
    progress(page, 10)
    assert dict(rows_of(file)[1:])[path] == guess
    first = shown(page)
    page.keyboard.press("ArrowRight")
    second = shown(page)
    assert first != second
    page.keyboard.type("c")  # the first letter of a class
    assert "Enter: cat" in page.text_content("#meant")
    page.keyboard.press("Enter")
    progress(page, 11)
    assert dict(rows_of(file)[1:])[second] == "cat"
    page.keyboard.type("c")
    page.keyboard.press("Escape")
    path = shown(page)
    type_class(page, "c")  # a class of its own
    progress(page, 12)
    page.reload()
    progress(page, 12)
    page.keyboard.press("Control+z")
    progress(page, 11)
    assert path not in dict(rows_of(file)[1:])
    assert page.locator("#classes button").count() == 3


def test_a_new_class_has_its_key_before_the_server_knows_it(start: Start, tab: Visit, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    page = tab(start(file).url)
    held: list[Any] = []
    page.route("**/answer", lambda route: route.continue_() if held else held.append(route))  # the first one waits
    first = shown(page)
    type_class(page, "cat")
    second = shown(page)
    page.keyboard.press("1")
    assert shown(page) not in (first, second)
    assert page.text_content("#saved") == "2 not saved yet"
    held[0].continue_()
    progress(page, 2)
    assert rows_of(file)[1:] == [[first, "cat"], [second, "cat"]]


def test_two_tabs(start: Start, tab: Visit, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    server = start(file)
    one = tab(server.url)
    other = tab(server.url, beside=one, expected="409")
    path = shown(one)
    assert shown(other) == path
    other.route("**/state*", lambda route: None)  # the other tab hears no news
    other.wait_for_timeout(50)
    type_class(one, "cat")
    progress(one, 1)
    if shown(other) == path:
        type_class(other, "dog")
        other.wait_for_selector("#trouble:not([hidden])")
        assert "“cat” by now" in other.text_content("#trouble")
    assert rows_of(file)[1:] == [[path, "cat"]]
    second = shown(other)
    type_class(other, "dog")
    progress(one, 2)  # the first tab hears of it
    assert rows_of(file)[1:] == [[path, "cat"], [second, "dog"]]


def stop(server: LabelServer) -> int:
    """End a server without a word to its tabs; returns its port."""
    server.session.close()
    server.shutdown()
    server.server_close()
    return server.server_port


def test_a_server_that_is_killed_and_started_again(start: Start, tab: Visit, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    server = start(file)
    page = tab(server.url, expected="Failed to load resource|ERR_CONNECTION")
    expected = {}
    for label in ("cat", "dog", "emu", "cat", "dog"):
        if label == "emu":
            progress(page, 2)
            port = stop(server)
        path = shown(page)
        type_class(page, label)
        expected[path] = label
    page.wait_for_selector("#trouble:not([hidden])")
    assert page.text_content("#saved") == "3 not saved yet"
    assert len(rows_of(file)) == 3
    server = start(file, port)
    page.locator("#trouble", has_text="started again").wait_for()
    page.goto(server.url)  # as the message says
    progress(page, 5)
    assert dict(rows_of(file)[1:]) == expected
    assert len(rows_of(file)) == 6


def test_a_wrong_token_and_a_foreign_name_show_nothing(start: Start, chromium: Any, tmp_path: Path) -> None:
    server = start(tmp_path / "labels.csv")
    context = chromium.new_context()
    page = context.new_page()
    for url in (server.url[:-3], server.url.partition("?")[0]):
        assert page.goto(url).status == 403
        assert page.locator("#classes").count() == 0
    assert page.goto(server.url).status == 200
    assert page.goto(server.url.partition("?")[0]).status == 200  # the cookie
    assert server.token not in page.url
    context.close()
    foreign = chromium.new_context()
    page = foreign.new_page()
    assert page.goto(server.url.replace("127.0.0.1", "foreign.localhost")).status == 403
    foreign.close()


def test_a_phone_and_accessibility(start: Start, tab: Visit, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    file = tmp_path / "labels.csv"
    file.write_text("path,label\n" + "".join(f"a {n:02d}.png,{class_of(f'a {n:02d}.png')}\n" for n in range(16)))
    server = start(file)
    page = tab(server.url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.wait_for_selector("#curve svg")
    page.wait_for_selector("#guess b")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    small = "buttons => buttons.filter(b => b.offsetParent && b.getBoundingClientRect().height < 44).map(b => b.id)"
    assert page.eval_on_selector_all("button", small) == []
    path = shown(page)
    page.locator("#classes button").first.tap()
    progress(page, 17)
    page.locator("#undo").tap()
    progress(page, 16)
    assert shown(page) == path
    for wide in (False, True):
        if wide:
            page = tab(server.url)
            page.wait_for_selector("#curve svg")
        grounds = set()
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            found = axe.run(page).response["violations"]
            assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found] == [], theme
        assert len(grounds) == 2


@pytest.mark.slow
def test_the_command_is_killed_started_again_and_ended(photos: Path, tab: Visit, tmp_path: Path) -> None:
    """The real thing: SIGKILL amid answers, the same command again, and SIGINT ends it with 0."""
    write_encoder(tmp_path / "encoder")
    file = tmp_path / "labels.csv"
    words = [sys.executable, "-m", "layergraft", "label", "--encoder", str(tmp_path / "encoder")]
    words += ["--data", str(photos), "--labels", str(file), "--number", "5"]
    expected: dict[str, str] = {}
    for end in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert process.stdout is not None
        url = re.search(r"http://\S+", process.stdout.readline())
        assert url is not None
        assert "ssh -N -L" in process.stdout.readline()
        page = tab(url.group(), expected="Failed to load resource|ERR_")
        for label in ("cat", "dog"):
            expected[shown(page)] = label
            type_class(page, label)
            progress(page, len(expected))
        process.send_signal(end)
        assert process.wait(timeout=60) == (-end if end == signal.SIGKILL else 0)
        process.stdout.close()
        page.context.close()
    assert dict(rows_of(file)[1:]) == expected
    assert len(rows_of(file)) == 5
