"""Answers go into the file one by one, and nothing else in it changes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from label_page import CLASSES, class_of, rows_of, session_of, write_photos

import layergraft
from layergraft.commands.label import background, labels_file
from layergraft.commands.label.background import Background, guess
from layergraft.commands.label.estimate import Advice, advise
from layergraft.commands.label.labels_file import LabelsFile
from layergraft.commands.label.run import quick_turns
from layergraft.commands.label.session import Conflict, Session
from layergraft.data.sources.label_file import read_labels
from layergraft.data.sources.open import open_source
from layergraft.errors import UserError
from layergraft.evaluation.conformal import sets
from layergraft.evaluation.labelled_classifier import fit_labelled
from layergraft.evaluation.prediction import predict_all

photos = pytest.fixture(scope="module", name="photos")(write_photos)


def test_an_answer_its_repetition_and_its_undo(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    session = session_of(photos, file)
    session.answer("a 05.png", " cat ", "")
    session.answer("a 05.png", "cat", "")  # sent again by a tab that has heard nothing
    session.answer("a 07.png", 'x, "y" ü', "")
    assert rows_of(file) == [["path", "label"], ["a 05.png", "cat"], ["a 07.png", 'x, "y" ü']]
    session.answer("a 05.png", "", "cat")
    session.answer("a 05.png", "", "cat")
    assert rows_of(file) == [["path", "label"], ["a 07.png", 'x, "y" ü']]
    assert session.waiting()[0] == session.position[session.file.named["a 05.png"][0]]
    assert read_labels(str(file), session.source).classes == ['x, "y" ü']


def test_two_tabs_give_one_image_two_labels(photos: Path, tmp_path: Path) -> None:
    session = session_of(photos, tmp_path / "labels.csv")
    session.answer("a 05.png", "cat", "")
    with pytest.raises(Conflict, match="cat"):
        session.answer("a 05.png", "dog", "")
    session.answer("a 05.png", "dog", "cat")  # one that has seen it
    with pytest.raises(Conflict, match="dog"):
        session.answer("a 05.png", "", "cat")  # an undo of what is no longer there
    assert rows_of(tmp_path / "labels.csv")[1:] == [["a 05.png", "dog"]]


def test_what_is_skipped_comes_back(photos: Path, tmp_path: Path) -> None:
    session = session_of(photos, tmp_path / "labels.csv")
    session.queue = [0, 1, 2]
    session.skip("a 00.png", back=False)
    assert session.waiting() == [1, 2]
    session.skip("a 00.png", back=True)
    assert session.waiting() == [0, 1, 2]
    assert not (tmp_path / "labels.csv").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (  # from `pick`: what it lists comes first
            b"path,label,rank\na 01.png,,1\na 02.png,dog,2\n",
            b"path,label,rank\na 01.png,new,1\na 02.png,dog,2\n",
        ),
        (  # from a spreadsheet: mark, semicolons, Windows line ends, other columns, spellings of their own
            b'\xef\xbb\xbfnote;label;path\r\n"a;b";007;./a 02.png\r\nc;;a 01.png\r\n',
            b'\xef\xbb\xbfnote;label;path\r\n"a;b";007;./a 02.png\r\nc;new;a 01.png\r\n',
        ),
        (  # a column that is not known, and an image that is not yet in it
            b"path,label,seen by\na 02.png,1.0,me\n",
            b"path,label,seen by\na 02.png,1.0,me\na 01.png,new,\n",
        ),
        ("path,label\na 01.png,\n".encode("utf-16"), "path,label\na 01.png,new\n".encode("utf-16")),
    ],
)
def test_the_file_keeps_what_it_held(before: bytes, after: bytes, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(before)
    file.chmod(0o640)
    session = session_of(photos, file)
    if session.file.blank:
        assert session.waiting()[0] == session.position[session.file.named["a 01.png"][0]]
    session.answer("a 01.png", "new", "")
    assert file.read_bytes() == after
    assert file.stat().st_mode & 0o777 == 0o640
    labels = read_labels(str(file), session.source)
    assert "new" in labels.classes
    session_of(photos, file).answer("a 01.png", "", "new")
    assert len(file.read_bytes().splitlines()) == len(after.splitlines())  # a row of before stays, without its label


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("a,b\n1,2\n", "no column"),
        ("path,label\nnowhere.png,cat\n", "name no image"),
        ("path,label\na 01.png,cat\na 01.png,dog\n", "two labels"),
        ("path,label,label\na 01.png,cat,dog\n", "cat|label|kept"),
    ],
)
def test_what_cannot_be_read_is_never_overwritten(content: str, message: str, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        session_of(photos, file)
    assert file.read_text(encoding="utf-8") == content
    file.unlink()
    session = session_of(photos, file)
    session.answer("a 02.png", "cat", "")
    file.write_text(content, encoding="utf-8")  # it has become so meanwhile
    for _ in range(2):  # a refused answer does not make the next one pass
        with pytest.raises(UserError, match=message):
            session.answer("a 03.png", "cat", "")
        assert file.read_text(encoding="utf-8") == content
    assert "a 03.png" not in {session.source.images.name(key) for key in session.file.labels}


def test_another_program_and_another_server_write_the_same_file(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    one, other = session_of(photos, file), session_of(photos, file)
    one.answer("a 01.png", "cat", "")
    other.answer("a 02.png", "dog", "")
    one.answer("a 03.png", "emu", "")
    with pytest.raises(Conflict, match="emu"):
        other.answer("a 03.png", "cat", "")
    file.write_text(file.read_text() + "a 04.png,by hand\n")
    other.answer("a 05.png", "cat", "")
    assert [label for _, label in rows_of(file)[1:]] == ["cat", "dog", "emu", "by hand", "cat"]


def test_a_full_disk_costs_the_answer_alone(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "labels.csv"
    session = session_of(photos, file)
    session.answer("a 01.png", "cat", "")

    def full(path: Path, content: bytes) -> None:
        raise UserError("No space")

    with monkeypatch.context() as patch:
        patch.setattr(labels_file, "write_bytes", full)
        with pytest.raises(UserError, match="No space"):
            session.answer("a 02.png", "dog", "")
        with pytest.raises(UserError, match="No space"):
            session.answer("a 01.png", "", "cat")
    assert rows_of(file)[1:] == [["a 01.png", "cat"]]
    assert list(session.file.labels.values()) == ["cat"]  # nothing is shown as saved that is not
    assert session.state()["labelled"] == 1
    session.answer("a 03.png", "emu", "")
    assert rows_of(file)[1:] == [["a 01.png", "cat"], ["a 03.png", "emu"]]


def test_labels_that_cannot_be_written(photos: Path, tmp_path: Path) -> None:
    session = session_of(photos, tmp_path / "labels.csv")
    for label in ("two\nlines", "x" * 201, "nul\0", "\ud800"):
        with pytest.raises(UserError, match="cannot be written"):
            session.answer("a 01.png", label, "")
    with pytest.raises(UserError, match=r"writes a \.csv"):
        LabelsFile("labels.parquet", session.source)


def test_classes_keep_their_keys(photos: Path, tmp_path: Path) -> None:
    session = session_of(photos, tmp_path / "labels.csv")
    for number, label in enumerate(("dog", "tpyo", "cat")):
        session.answer(f"a 0{number}.png", label, "")
    session.answer("a 01.png", "", "tpyo")
    assert session.classes == ["dog", "tpyo", "cat"]
    session.answer("a 02.png", "", "cat")
    assert session.classes == ["dog"]


def test_background_work_guesses_picks_and_judges(photos: Path, tmp_path: Path) -> None:
    session = session_of(photos, tmp_path / "labels.csv")
    work = Background(session)
    work.pick()
    assert session.state()["cards"]
    for number in range(24):
        session.answer(f"a {number:02d}.png", class_of(f"a {number:02d}.png"), "")
        if number == 2:
            work.guess_all()
            assert "guess" in session.state()["cards"][0]
            assert "certainty" not in session.state()["cards"][0]  # nothing tells yet how sure it is
    work.guess_all()
    work.pick()
    work.judge()
    state = session.state()
    assert [point["labels"] for point in state["curve"]] == [10, 15, 20, 24]
    assert state["curve"][-1]["accuracy"] > 80
    labelled = {session.source.images.name(key) for key in session.file.labels}
    assert len(state["cards"]) == 12
    assert not labelled & {card["path"] for card in state["cards"]}
    assert sum(card["guess"] == class_of(card["path"]) for card in state["cards"]) >= 10
    assert all(0 < card["certainty"] <= 1 for card in state["cards"])
    assert sum(one["guesses"] for one in state["classes"]) == 90 - 24
    assert "doubling" in state["advice"]
    assert (state["others"], state["error"], state["least"]) == (90 - 24, 0.1, 9)
    assert 0 < state["sure"] <= 90 - 24
    session.answer("a 23.png", "", class_of("a 23.png"))
    assert [point["labels"] for point in session.state()["curve"]] == [10, 15, 20]


def test_what_is_undone_while_picks_are_made_comes_next(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(photos, tmp_path / "labels.csv")
    session.answer("a 05.png", "cat", "")
    pick_rows = background.pick_rows

    def pick_slowly(*arguments: Any) -> Any:
        session.answer("a 05.png", "", "cat")
        return pick_rows(*arguments)

    monkeypatch.setattr(background, "pick_rows", pick_slowly)
    Background(session).pick()
    waiting = session.waiting()
    assert waiting[0] == session.position[session.file.named["a 05.png"][0]]
    assert len(waiting) == len(set(waiting)) > 12


def test_work_that_fails_costs_no_label_and_is_said(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = session_of(photos, tmp_path / "labels.csv")
    work = Background(session)

    def wait_for_note(text: str) -> None:
        with session.changed:
            assert session.changed.wait_for(lambda: text == session.state()["note"], 30)

    with monkeypatch.context() as patch:
        patch.setattr(background, "pick_rows", lambda *_: 1 / 0)
        work.start()
        wait_for_note("division by zero Labels are taken all the same.")
        session.answer("a 01.png", "cat", "")
    session.answer("a 02.png", "dog", "")
    wait_for_note("")
    session.close()
    work.join()
    assert len(rows_of(tmp_path / "labels.csv")) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_guesses_are_those_of_the_protocol(photos: Path, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    session = session_of(photos, tmp_path / "labels.csv")
    for number in range(12):
        session.answer(f"a {number:02d}.png", class_of(f"a {number:02d}.png"), "")
    known = session.known()
    ours = guess(session.features, known, 0.1, 1.0)
    theirs = LogisticRegression(C=10, fit_intercept=False, tol=1e-8, max_iter=1000)
    theirs.fit(session.features[known.rows].astype(np.float64), known.labels)
    probabilities = theirs.predict_proba(session.features.astype(np.float64))
    assert (ours.label == probabilities.argmax(1)).all()
    assert np.allclose(ours.certainty, probabilities.max(1), atol=1e-4)
    assert ours.sure is None  # nothing tells the threshold of its sets
    for threshold in (0.0, 0.3, 0.6):
        sure = guess(session.features, known, 0.1, 1.0, threshold).sure
        assert sure is not None
        assert (sure == (sets(probabilities, threshold).sum(1) == 1)).all()


def test_who_is_sure_is_what_predict_says(photos: Path, tmp_path: Path) -> None:
    """The page counts as sure what `predict` does at the same error rate."""
    for error, least in ((0.1, 9), (0.3, 3), (0.02, 49)):
        session = session_of(photos, tmp_path / f"{error}.csv", error=error)
        for number in np.random.default_rng(3).permutation(20).tolist():  # as they are picked
            session.answer(f"a {number:02d}.png", class_of(f"a {number:02d}.png"), "")
        work = Background(session)
        work.judge()
        known, state = session.known(), session.state()
        rows = np.sort(known.rows)
        labels = np.array([CLASSES.index(class_of(f"a {row:02d}.png")) for row in rows.tolist()])
        fitted = fit_labelled(session.features[rows], labels, 3, error)
        predicted = predict_all(session.features, list(CLASSES), fitted, rows)
        assert predicted.sure is not None
        assert fitted.out_of_fold is not None
        accuracy = 100 * float((fitted.out_of_fold.argmax(1) == labels).mean())
        assert session.shown.points[20].accuracy == accuracy
        others = np.setdiff1d(np.arange(90), rows)
        assert (state["sure"], state["least"]) == (int(predicted.sure[others].sum()), least)
        assert (state["sure"] > 0) == (least <= 20)


def test_tiles_of_one_file_are_judged_together(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(photos, tmp_path / "labels.csv")
    session.source = replace(session.source, files=np.arange(90, dtype=np.int32) // 6)
    for number in range(20):
        session.answer(f"a {number:02d}.png", class_of(f"a {number:02d}.png"), "")
    seen: list[Any] = []
    monkeypatch.setattr(background, "fit_labelled", lambda *parts: seen.append(parts[4]) or fit_labelled(*parts))
    Background(session).judge()
    assert (max(seen, key=len) == session.known().rows // 6).all()


def test_advice_on_what_is_learned_and_on_what_is_not() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(160, dtype=np.int64) % 2
    easy = np.eye(8, dtype=np.float32)[labels] + 0.01 * random.standard_normal((160, 8)).astype(np.float32)
    advice = advise(easy, labels, 2, 2.5e-4)
    assert advice.enough
    assert "hardly help" in advice.sentence()
    few = advise(easy[:12], labels[:12], 2, 2.5e-4)
    assert few.gain == 0
    assert not few.enough  # twelve cannot show it
    assert "Too few" in few.sentence()
    hard = random.standard_normal((120, 60)).astype(np.float32)
    helped = advise(hard, (hard[:, :20].sum(1) > 0).astype(np.int64), 2, 2.5e-4)
    assert helped.gain > 0
    assert not helped.enough


def test_a_gain_that_rounds_to_none_has_no_minus() -> None:
    assert "gained +0 points (95 % interval −3 to +0)" in Advice(gain=-0.3, low=-2.6, high=0.4).sentence()


def test_images_that_no_file_can_name_are_left_out(tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("good 00.png", "two\nlines.png"):
        (folder / name).write_bytes((photos / "a 00.png").read_bytes())
    source = open_source(str(folder))
    session = Session(source, np.zeros((2, 4), dtype=np.float32), LabelsFile(str(tmp_path / "l.csv"), source), 5)
    assert session.usable.sum() == 1
    assert SimpleNamespace(**session.state()).images == 1


def test_the_server_leaves_python_and_torch_as_they_were() -> None:
    before = torch.get_num_threads(), sys.getswitchinterval()
    with quick_turns():
        assert torch.get_num_threads() == 1
        assert sys.getswitchinterval() < before[1]
    assert (torch.get_num_threads(), sys.getswitchinterval()) == before


@pytest.mark.parametrize("error", [0, 1, -0.1])
def test_what_is_no_error_rate_is_refused(error: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--error is"):
        layergraft.label(encoder="none", data="none", labels=tmp_path / "labels.csv", error=error)
