"""What an ablation does, with made-up outcomes: what is due, what is chosen, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from played_study import PLANS, SCALE, SMALL, ablation, measured, operations_made_up, play

import layergraft
from layergraft.commands.ablate.ablation import Ablation
from layergraft.commands.ablate.files import AblationFiles, write_outcome
from layergraft.commands.ablate.outcome import make_outcome, sentence
from layergraft.commands.ablate.page import edges
from layergraft.commands.ablate.run import _loader
from layergraft.commands.ablate.vary import parse_vary
from layergraft.commands.cli import main
from layergraft.commands.study.accuracy import SeedImages
from layergraft.commands.study.cost_lines import cost_lines
from layergraft.config import EvaluateConfig, load_recipe
from layergraft.encoders.vit import create_encoder


@pytest.fixture(scope="module", autouse=True)
def operations() -> Iterator[None]:
    with operations_made_up():
        yield


@pytest.fixture(scope="module")
def both(operations: None) -> Ablation:
    return ablation(PLANS | {"equal": ["epochs", "compute"]})


def test_every_arm_has_the_same_search_and_seeds(both: Ablation) -> None:
    jobs, outcomes = play(both)
    assert len(both.left({})) == len(jobs)
    assert both.left(outcomes) == []
    for name in ("even", "slow", "mae"):
        assert [job for job in jobs if job.startswith(f"{name}/trial-")] == [f"{name}/trial-{k}" for k in range(3)]
        assert sum(job.startswith(f"{name}/seed-") for job in jobs) == 3
    assert jobs["slow/trial-1"].start == "mae/seed-0"
    assert jobs["slow/seed-2"].start == "mae/seed-2"
    assert "mae_compute/seed-0" in jobs  # the others take the operations of the reference as they are


def test_nothing_is_chosen_on_test_images(both: Ablation) -> None:
    first, second = play(both), play(both, noise=1)
    assert first[1] != second[1]
    assert first[0] == second[0]
    assert both.record(first[1])["best"] == both.record(second[1])["best"] == "slow"


def test_without_a_search_a_shared_stage_is_trained_once_a_seed() -> None:
    jobs, _ = play(ablation({"arms": {"even": {}, "slow": {SCALE: [0.3, 0.3, 1]}}, "search": 1}))
    stages = [name for name, job in jobs.items() if "mae" in job.recipe.stages and job.arm.trained]
    assert len(stages) == 3
    assert all(job.kind != "trial" for job in jobs.values())
    assert len(jobs) == 3 + 2 * 3 + 2 * 3  # the stage, the arms, and what needs no training


def test_equal_compute_alone(both: Ablation) -> None:
    study = ablation(PLANS | {"equal": "compute"})
    assert not any(name.endswith("_compute") for name in study.lengths)
    found = measured(study, play(study)[1], PLANS)
    flops = {arm.name: arm.flops for arm in found.arms if arm.flops}
    assert max(flops.values()) / min(flops.values()) < 1.2  # whole steps of few batches
    assert {arm.budget for arm in found.arms} == {"compute", None}
    assert found.arms[0].search


def test_outcome_files_and_frame(both: Ablation, tmp_path: Path) -> None:
    study = measured(both, play(both)[1], PLANS)
    write_outcome(study, tmp_path)
    outcome = make_outcome(study)
    assert "slow: better than even" in sentence(outcome, "epochs")
    assert "mae: worse than even" in sentence(outcome, "epochs")
    rows = outcome.rows("epochs")
    assert {row.arm for row in rows} == {"slow", "mae"}  # what needs no training is in no family
    assert rows[0].difference.p_holm > rows[0].difference.p  # type: ignore[operator]
    assert rows[0].difference.seeds_needed is not None
    files = AblationFiles.of(tmp_path)
    assert files.measured().differences == outcome.differences
    pytest.importorskip("pandas")
    frame = files.frame()
    slow = frame[(frame["arm"] == "slow") & (frame["column"] == "mean") & (frame["budget"] == "epochs")].iloc[0]
    assert slow["difference"] == pytest.approx(slow["mean"] - frame[frame["arm"] == "even"].iloc[0]["mean"])
    assert "<table>" in files._repr_html_()
    table = files.table.read_text()
    assert r"\toprule" in table
    assert sum(line.endswith(r"\\") for line in table.splitlines()) == 1 + 5
    page = files.report.read_text()
    assert "slow: better than even" in page
    assert "at equal compute" in page


def test_no_figure_of_an_earlier_outcome_is_left(
    both: Ablation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "figure.pdf").write_bytes(b"of fewer arms")
    monkeypatch.setattr("layergraft.commands.study.paper.can_draw", lambda: False)
    write_outcome(measured(both, play(both)[1], PLANS), tmp_path)
    assert AblationFiles.of(tmp_path).figure is None


def test_what_cannot_be_tried_is_not_called_short(both: Ablation, monkeypatch: pytest.MonkeyPatch) -> None:
    vary = parse_vary(PLANS, "plans.yaml")
    monkeypatch.setattr("layergraft.commands.study.cost_lines.told_seconds", lambda *_: None)
    assert "over in minutes" in cost_lines(both, vary.reference, {}, 2)[-1]
    monkeypatch.setattr("layergraft.commands.study.cost_lines.SOON", 0.0)
    assert "cannot be told" in cost_lines(both, vary.reference, {}, 2)[-1]


def test_another_recipe_starts_from_the_same_weights() -> None:
    base = load_recipe("fashion_paper", {"start": "weights.pth"})
    assert _loader("fashion_paper", base, {})("fashion_cl_mim", {}).start == "weights.pth"


def test_the_block_that_is_asked_for_is_measured() -> None:
    recipe = load_recipe("fashion_paper", {**SMALL, "data.source": "builtin:fashion-canvas?fraction=0.01"})
    images, encoder = SeedImages(recipe), create_encoder(recipe.encoder, 0).eval()
    blocks = [
        images._features(encoder, images.data.holdout, EvaluateConfig(block=block)).tolist() for block in (None, 2, 0)
    ]
    assert blocks[0] == blocks[1] != blocks[2]


def test_figure_is_a_pdf(both: Ablation, tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    write_outcome(measured(both, play(both)[1], PLANS), tmp_path)
    figure = AblationFiles.of(tmp_path).figure
    assert figure is not None
    assert figure.read_bytes().startswith(b"%PDF")


def test_report_makes_the_outcome_again(both: Ablation, tmp_path: Path) -> None:
    study = measured(both, play(both)[1], PLANS)
    write_outcome(study, tmp_path / "first")
    content = json.loads((tmp_path / "first" / "outcome.json").read_text())["study"]
    (tmp_path / "study.json").write_text(json.dumps(content))
    assert layergraft.report(runs=[str(tmp_path)]) == tmp_path / "report.html"
    assert (tmp_path / "outcome.json").read_bytes() == (tmp_path / "first" / "outcome.json").read_bytes()


def test_a_search_that_ends_at_its_edge_is_named(both: Ablation) -> None:
    _, outcomes = play(both)
    for number in range(3):
        outcomes[f"slow/trial-{number}"]["holdout"] = {"1": float(number), "5": float(number)}
    arms = measured(both, outcomes, PLANS).searched
    assert any(line.startswith("slow took the largest rate") for line in edges(arms))


def test_refusals_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one message, nothing made."""
    plans, busy = tmp_path / "plans.yaml", tmp_path / "busy"
    plans.write_text(f"arms: {{even: {{}}, slow: {{{SCALE}: 0.5}}}}")
    busy.mkdir()
    (busy / "file").write_text("mine")
    words = ["ablate", "--recipe", "fashion_paper", "--vary", str(plans), "--out"]
    new = str(tmp_path / "new")
    for more, message in (
        ([new, "--seeds", "0"], "at least one seed"),
        ([new, "--data.holdout", "0"], "held out"),
        ([new, "--evaluate.pooling", "auto"], "chosen for each encoder"),
        ([new, "--evaluate.keep", "0.5"], "whole images"),
        ([new, "--evaluate.block", "6"], "Arm 'even' has no block 6"),
        ([new, "--evaluate.shots", "1%"], "few labels"),
        ([new, "--stages.grafts.epochs", "2"], "no stage 'grafts'"),
        ([str(busy)], "is no study"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert not Path(new).exists()
    assert [path.name for path in busy.iterdir()] == ["file"]
