"""A run that diverges is an outcome of the study: named, in no mean, no reason to choose its arm, and done again when
that is asked for."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from played_study import PLANS, SCALE, ablation, measured, operations_made_up, play

from layergraft.commands.ablate.ablation import Ablation
from layergraft.commands.ablate.files import AblationFiles, write_outcome
from layergraft.commands.ablate.outcome import make_outcome, sentence
from layergraft.commands.ablate.page import edges
from layergraft.commands.ablate.run import _is_finished, _say_diverged
from layergraft.commands.cli import main
from layergraft.commands.study.carry_out import retry_diverged
from layergraft.commands.study.jobs import JobOutcome, read_outcome
from layergraft.commands.study.remaining import remaining_seconds
from layergraft.commands.study.run_job import outcome_file
from layergraft.errors import UserError

WHY = "Stage 'graft' diverged: steps 1 to 3 had no finite loss or gradient."


def lost(study: Ablation, *names: str) -> dict[str, JobOutcome]:
    """What the study finds when these runs diverge, and those that start from them."""
    _, outcomes = play(study)
    for name in names:
        outcomes[name] = {"seconds": 0.1, "flops": outcomes[name]["flops"], "diverged": WHY}
    return outcomes


@pytest.fixture(scope="module", autouse=True)
def operations() -> Iterator[None]:
    with operations_made_up():
        yield


@pytest.fixture(scope="module")
def study(operations: None) -> Ablation:
    return ablation({**PLANS, "equal": "epochs"})


def test_means_and_differences_are_of_the_other_seeds(study: Ablation, tmp_path: Path) -> None:
    found = measured(study, lost(study, "slow/seed-1"), PLANS)
    write_outcome(found, tmp_path)
    outcome = make_outcome(found)
    mean = outcome.accuracy("slow", "mean")
    assert mean is not None
    assert mean.seeds == [0, 2]
    assert next(row for row in outcome.rows("epochs") if row.arm == "slow").difference.seeds == [0, 2]
    files = AblationFiles.of(tmp_path)
    assert "2 of 3" in files._repr_html_()
    assert "slow (2 of 3 seeds)" in files.table.read_text()
    assert "slow: 1 of 3 seeds diverged (seed 1). Stage 'graft' diverged" in html.unescape(files.report.read_text())
    assert files.measured().differences == outcome.differences
    pytest.importorskip("pandas")
    assert set(files.frame().query("arm == 'slow'")["diverged"]) == {1}


def test_what_survives_is_no_reason_to_choose_an_arm(study: Ablation) -> None:
    """`slow` leads by four points; with two of three seeds lost it is not the best arm."""
    assert study.record(play(study)[1])["best"] == "slow"
    assert study.record(lost(study, "slow/seed-1", "slow/seed-2"))["best"] == "even"


def test_an_arm_without_any_seed_is_still_shown(study: Ablation, tmp_path: Path) -> None:
    found = measured(study, lost(study, *(f"slow/seed-{seed}" for seed in range(3))), PLANS)
    write_outcome(found, tmp_path)
    assert "slow: diverged with every seed" in sentence(make_outcome(found), "epochs")
    assert "mae: worse than even" in sentence(make_outcome(found), "epochs")
    page = AblationFiles.of(tmp_path).report.read_text()
    assert "0 of 3" in page
    assert found.common_seeds == {0, 1, 2}  # those of the arms that have some
    pytest.importorskip("pandas")
    row = AblationFiles.of(tmp_path).frame().query("arm == 'slow'").iloc[0]
    assert (row["seeds"], row["diverged"]) == (0, 3)


def test_without_the_reference_nothing_is_compared(study: Ablation, tmp_path: Path) -> None:
    found = measured(study, lost(study, *(f"even/seed-{seed}" for seed in range(3))), PLANS)
    write_outcome(found, tmp_path)
    assert sentence(make_outcome(found), "epochs") == "even: diverged with every seed."
    assert "0 of 3" in AblationFiles.of(tmp_path).report.read_text()


def test_a_search_whose_trials_all_diverged_takes_the_lowest_rate(study: Ablation) -> None:
    outcomes = lost(study)
    for number in range(3):
        outcomes[f"slow/trial-{number}"] = {"holdout": {"1": 0.0, "5": 0.0}, "diverged": WHY}
    turned = ablation({**PLANS, "search": [1, 0.5, 2]})
    assert turned.choice(turned.arms["slow"], outcomes) == 1
    found = measured(study, outcomes, PLANS)
    assert any("every rate that was tried diverged" in line for line in edges(found.searched))
    assert all(trial.diverged for arm in found.arms if arm.name == "slow" for trial in arm.search)


def test_where_every_run_diverged_the_command_ends_with_what_to_do(study: Ablation) -> None:
    trained = [f"{arm}/seed-{seed}" for arm in ("even", "slow", "mae") for seed in range(3)]
    with pytest.raises(UserError, match="Every run of the study"):
        _say_diverged(study, lost(study, *trained))
    _say_diverged(study, lost(study, *trained[1:]))


def test_what_diverged_does_not_tell_how_long_the_rest_takes() -> None:
    done: list[dict[str, Any]] = [{"seconds": 4.0, "flops": 1.0}, {"seconds": 0.1, "flops": 1.0, "diverged": WHY}]
    assert remaining_seconds(done, [1.0, 1.0], 1) == pytest.approx(8.0)
    assert remaining_seconds(done[1:], [1.0], 1) == pytest.approx(0.1)


def test_retry_does_again_what_diverged_and_what_rests_on_it(operations: None, tmp_path: Path) -> None:
    """`mae` is where the others start: where its seed 0 diverged, so did their searches, and nothing of them stays."""
    study = ablation(PLANS)
    study.out = tmp_path
    outcomes = lost(study, "slow/seed-1", *(f"{arm}/seed-0" for arm in ("mae", "even", "slow")))
    for number in range(3):
        outcomes[f"even/trial-{number}"]["diverged"] = outcomes[f"slow/trial-{number}"]["diverged"] = WHY
    outcomes["mae/trial-2"]["diverged"] = WHY  # a rate too high: it has been answered
    for name, outcome in outcomes.items():
        file = outcome_file(tmp_path, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"identity": "x", **outcome}))
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert "diverged" in read_outcome(outcome_file(tmp_path, "slow/seed-1"), "seed")
    retry_diverged(study)
    left = {name for name in outcomes if outcome_file(tmp_path, name).is_file()}
    assert left == {name for name in outcomes if name.startswith(("mae/", "random/", "pixels/"))} - {"mae/seed-0"}
    assert {str(run.relative_to(tmp_path / "runs")) for run in (tmp_path / "runs").glob("*/*")} == left


def test_a_run_that_diverged_and_was_removed_is_done_again(operations: None, tmp_path: Path) -> None:
    """What starts from one that is there never had a directory; of one that ended well the numbers stay."""
    study = ablation(PLANS)
    study.out = tmp_path
    outcomes = lost(study, "slow/seed-1", "slow/seed-2", *(f"{arm}/seed-0" for arm in ("mae", "even", "slow")))
    for name, outcome in outcomes.items():
        file = outcome_file(tmp_path, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"identity": "x", **outcome}))
    for name in ("mae/seed-0", "slow/seed-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)

    def gone() -> set[str]:
        retry_diverged(study, removed=True)
        return {name for name in outcomes if not outcome_file(tmp_path, name).is_file()}

    assert gone() == {"slow/seed-1"}
    (tmp_path / "runs/mae/seed-0").rmdir()
    later = {name for name in outcomes if name.startswith(("even/", "slow/"))}
    assert gone() == {"mae/seed-0"} | later


def test_a_changed_title_is_written_anew(study: Ablation, tmp_path: Path) -> None:
    """`a b` and `a-b` have the same files; the page says what the file of arms says now."""
    _, outcomes = play(study)
    study.out = tmp_path
    head = {"reference": "even", "budgets": ["epochs"], "source": study.source, "seeds": study.seeds, "command": "c"}
    (tmp_path / "study.json").write_text(json.dumps(head | study.record(outcomes)))
    (tmp_path / "outcome.json").touch()
    assert _is_finished(study, outcomes, head | {"command": "d"})
    other = ablation({"arms": {"even": {}, "Slow": {SCALE: [0.3, 0.3, 1]}, "mae": {"stages.graft": None}}})
    other.out = tmp_path
    assert not _is_finished(other, outcomes, head)


RECIPE = """
encoder: {name: vit_tiny_patch16_224, img_size: 36, in_chans: 1, patch_size: 18, embed_dim: 16, depth: 2, num_heads: 2}
data: {source: "builtin:fashion-canvas?fraction=0.01", holdout: 40, workers: 0}
stages:
  mae: {objective: {name: mae, decoder: {embed_dim: 16, depth: 1, num_heads: 2}}, epochs: 2, batch_size: 32}
  graft: {objective: {name: simclr, projector: [16, 16, 8]}, epochs: 1, batch_size: 32}
evaluate: {protocols: [logistic], shots: [1], splits: 1}
"""


@pytest.mark.slow
def test_a_study_goes_on_beside_a_run_that_diverges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An arm whose first stage no step survives; what starts from it is not trained. `1:` is a name of an arm, too."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    arms = "{1: {}, hot: {stages.mae.optimizer.base_lr: 1.0e+30}}"
    (tmp_path / "plans.yaml").write_text(f"arms: {arms}\nsearch: 1\nreference: 1\n")
    out = tmp_path / "out"
    words = ["ablate", "--recipe", str(tmp_path / "recipe.yaml"), "--vary", str(tmp_path / "plans.yaml"), "--jobs", "1"]
    words += ["--seeds", "1", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "1 of 2 runs diverged, and no mean knows of them: hot/seed-0" in said
    start, _, reason = json.loads((out / "outcomes/hot/seed-0.json").read_text())["diverged"].partition(",")
    assert reason == " from which it starts, diverged."
    assert not (out / "locks").exists()
    assert main(words) == 0
    assert "finished; nothing to do" in capsys.readouterr().err
    shutil.rmtree(out / "runs" / start)
    assert main(words) == 0
    assert "finished; nothing to do" not in capsys.readouterr().err
    assert (out / "runs" / start).is_dir()
