"""What is due follows from outcomes; every choice is made on held-out images; equal compute is equal."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs

from layergraft.commands.reproduce.arms import ARMS
from layergraft.commands.reproduce.claims_study import ClaimsStudy, claims_costs
from layergraft.commands.reproduce.recipes import arm_recipe
from layergraft.commands.reproduce.scales import SCALES
from layergraft.commands.reproduce.study_file import MeasuredClaims
from layergraft.commands.study import accuracy
from layergraft.commands.study.arms import COMPUTE
from layergraft.commands.study.cost import SAME, Costs, steps_of
from layergraft.commands.study.jobs import Job, JobOutcome
from layergraft.commands.study.remaining import remaining_seconds
from layergraft.commands.study.run_job import run_job
from layergraft.commands.study.study_file import as_study
from layergraft.config import Recipe
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.encoders.vit import create_encoder
from layergraft.evaluation.features import NonFiniteFeatures
from layergraft.training.divergence import Diverged

SMOKE = SCALES["smoke"]
SOURCE = str(SMOKE.source)
IMAGES = 500


@pytest.fixture(scope="module")
def costs() -> Costs:
    return claims_costs(SMOKE, SOURCE, IMAGES)


def outcome(job: Job, chance: random.Random, noise: random.Random) -> JobOutcome:
    """What a job might find: held-out figures from `chance`, test figures from `noise`."""
    if job.kind == "conflict":
        return {"blocks": [{"block": 0, "mean": -0.1, "negative": 0.6}], "during": [], "lr_scale": [0.2, 0.5, 1.0]}
    keys = ("1", "5", "10%", "knn")
    found: JobOutcome = {"seconds": 1.0, "flops": job.flops, "holdout": {key: chance.uniform(20, 60) for key in keys}}
    return found | ({"test": {key: noise.uniform(0, 100) for key in keys}} if job.kind == "seed" else {})


Played = tuple[dict[str, Job], dict[str, JobOutcome]]


def play(study: ClaimsStudy, noise: int = 0) -> Played:
    """Carry out a whole study with made-up outcomes: the jobs in order, and what they found."""
    jobs: dict[str, Job] = {}
    outcomes: dict[str, JobOutcome] = {}
    made_up = random.Random(noise)
    while job := next(study.due(outcomes), None):
        assert job.start is None or job.start in outcomes
        jobs[job.name] = job
        outcomes[job.name] = outcome(job, random.Random(job.name), made_up)
    return jobs, outcomes


@pytest.fixture(scope="module")
def study(costs: Costs) -> ClaimsStudy:
    return ClaimsStudy(SMOKE, SOURCE, list(range(5)), Path("study"), costs)


@pytest.fixture(scope="module")
def played(study: ClaimsStudy) -> Played:
    return play(study)


@pytest.fixture(scope="module")
def searching(costs: Costs) -> ClaimsStudy:
    """One whose searches try 1, 2 and 4, and three more."""
    scale = replace(SMOKE, factors=(1.0, 2.0, 4.0), extended=3)
    return ClaimsStudy(scale, SOURCE, [0], Path("study"), costs)


def test_seeds_of_five(study: ClaimsStudy, played: Played) -> None:
    """Floors, what claims compare and the chosen graft have all seeds, the rest three; jobs are counted beforehand."""
    jobs, outcomes = played
    graft = study.chosen_graft(outcomes)
    assert graft is not None
    claimed = {"mae", "scratch", "joint", "graft_slow", "graft_frozen", "cl_mim"}
    assert len(study.left({})) == len(jobs) + (2 if graft in claimed else 0)  # which graft it will be is not known
    assert ARMS[graft].graft
    for name in study.lengths:
        seeds = [int(job.rpartition("-")[2]) for job in jobs if job.startswith(f"{name}/seed-")]
        many = name.removesuffix(COMPUTE) in {"random", "pixels", graft, *claimed}
        assert sorted(seeds) == list(range(5 if many else 3)), name
        trials = [job for job in jobs if job.startswith(f"{name}/trial-")]
        assert len(trials) == (2 if ARMS.get(name) and ARMS[name].recipe else 0)
    assert [job for job in jobs if "conflict" in job] == [f"joint/conflict-{seed}" for seed in range(5)]
    assert study.left(outcomes) == []


def test_choices_are_the_best_on_holdout(study: ClaimsStudy, played: Played) -> None:
    """By hand from the outcomes: the trial, and the graft over the first three seeds, with the best mean over shots."""
    jobs, outcomes = played

    def mean(name: str) -> float:
        return (outcomes[name]["holdout"]["1"] + outcomes[name]["holdout"]["5"]) / 2  # neither 10 % nor kNN

    own = {name: arm_recipe(ARMS[name], SMOKE, SOURCE, 0) for name in ARMS if ARMS[name].recipe}
    for name, recipe in own.items():
        factor = 1.0 if mean(f"{name}/trial-0") >= mean(f"{name}/trial-1") else 2.0
        for job in (jobs[f"{name}/seed-2"], *(jobs[key] for key in jobs if key == f"{name}{COMPUTE}/seed-0")):
            for stage, config in job.recipe.stages.items():
                assert config.optimizer.base_lr == factor * recipe.stages[stage].optimizer.base_lr
    grafts = {name: np.mean([mean(f"{name}/seed-{seed}") for seed in range(3)]) for name in ARMS if ARMS[name].graft}
    assert len(grafts) == 5
    assert study.chosen_graft(outcomes) == max(grafts, key=lambda name: grafts[name])


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (2.5, [1, 2, 4]),
        (8.0, [1, 2, 4, 8, 16]),  # best once, and within by then
        (1e9, [1, 2, 4, 8, 16, 32]),  # at the edge for as long as it may
        (0.3, [1, 2, 4, 0.5, 0.25, 0.125]),
    ],
)
def test_a_search_goes_on_where_the_best_is_at_its_edge(
    searching: ClaimsStudy, best: float, tried: list[float]
) -> None:
    usual = arm_recipe(ARMS["mae"], SMOKE, SOURCE, 0).stages["mae"].optimizer.base_lr
    outcomes: dict[str, JobOutcome] = {}
    rates = []
    while (job := next(searching.due(outcomes))).kind == "trial":  # those of the first arm come before all else
        rates.append(job.recipe.stages["mae"].optimizer.base_lr / usual)
        reached = 50 - abs(np.log2(rates[-1] / best))
        outcomes[job.name] = {"holdout": {"1": reached}, "seconds": 1.0, "flops": 1.0}
    assert rates == pytest.approx(tried)
    nearest = min(tried, key=lambda factor: abs(np.log2(factor / best)))
    assert job.name == "mae/seed-0"
    assert job.recipe.stages["mae"].optimizer.base_lr == pytest.approx(nearest * usual)


def test_a_search_that_diverges_everywhere_goes_down(searching: ClaimsStudy) -> None:
    outcomes: dict[str, JobOutcome] = {}
    while (job := next(searching.due(outcomes))).kind == "trial":
        outcomes[job.name] = {"holdout": {"1": 0.0}, "diverged": "too high", "seconds": 1.0, "flops": 1.0}
    assert searching.factors("mae", outcomes) == [1.0, 2.0, 4.0, 0.5, 0.25, 0.125]
    assert searching.choice(ARMS["mae"], outcomes) == 5


def test_noise_in_test_figures_changes_no_job(study: ClaimsStudy, played: Played) -> None:
    first, second = played, play(study, noise=1)
    assert first[1] != second[1]
    assert first[0] == second[0]
    records = [study.record(outcomes) for _, outcomes in (first, second)]
    assert records[0] != records[1]
    assert records[0]["chosen_graft"] == records[1]["chosen_graft"]
    assert [arm["search"] for arm in records[0]["arms"]] == [arm["search"] for arm in records[1]["arms"]]


def test_a_trial_opens_no_test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def opening(spec: str) -> Source:
        opened.append(spec)
        return open_source(spec)

    monkeypatch.setattr(accuracy, "open_source", opening)
    recipe = arm_recipe(ARMS["mae"], SMOKE, SOURCE, 0)
    for name, kind in (("random/trial-0", "trial"), ("random/seed-0", "seed")):
        job = Job(name=name, kind=kind, arm=ARMS["random"], recipe=recipe, start=None, flops=0.0)  # type: ignore[arg-type]
        found = run_job(job, SMOKE, tmp_path)
        assert ("test" in found) == (kind == "seed") == bool(opened)
        assert set(found["holdout"]) == ({"1", "5"} if kind == "trial" else {"1", "5", "10%", "knn"})


def test_a_trial_that_diverges_is_the_worst_of_its_search(tmp_path: Path) -> None:
    """With a rate that no step survives: a trial counts as 0 %, so the search goes on; a seed stops the study."""
    recipe = arm_recipe(ARMS["mae"], SMOKE, SOURCE, 0, factor=1e30)
    job = Job(name="mae/trial-0", kind="trial", arm=ARMS["mae"], recipe=recipe, start=None, flops=0.0)
    assert run_job(job, SMOKE, tmp_path)["holdout"] == {"1": 0.0, "5": 0.0}
    with pytest.raises(Diverged):
        run_job(replace(job, name="mae/seed-0", kind="seed"), SMOKE, tmp_path)


def test_a_trial_whose_features_are_not_finite_is_the_worst_of_its_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has trained to its end, and its weights are too large for any feature."""
    recipe = arm_recipe(ARMS["mae"], SMOKE, SOURCE, 0)
    encoder = create_encoder(recipe.encoder, 0).eval()
    with torch.no_grad():
        for parameter in encoder.vit.blocks[0].parameters():
            parameter.fill_(float("inf"))
    monkeypatch.setattr("layergraft.commands.study.run_job._encoder", lambda *_: encoder)
    job = Job(name="random/trial-0", kind="trial", arm=ARMS["random"], recipe=recipe, start=None, flops=0.0)
    assert run_job(job, SMOKE, tmp_path)["holdout"] == {"1": 0.0, "5": 0.0}
    with pytest.raises(NonFiniteFeatures):
        run_job(replace(job, name="random/seed-0", kind="seed"), SMOKE, tmp_path)


def test_the_record_is_a_study(study: ClaimsStudy, played: Played) -> None:
    """In the form that statistics and page read."""
    outcomes = played[1]
    origin = {"scale": "smoke", "source": SOURCE, "seeds": study.seeds, "command": "", "machine": {}, "seconds": 1.0}
    found = as_study(origin | study.record(outcomes), MeasuredClaims)
    for arm in found.arms:
        assert (arm.budget is None) == (arm.name in ("random", "pixels"))
        assert [trial.chosen for trial in arm.search].count(True) == (0 if arm.budget is None else 1)
    graft = found.find("graft_slow", "epochs")
    assert graft is not None
    assert [(stage["name"], stage["epochs"]) for stage in graft.stages] == [("mae", 1.0), ("graft", 0.5)]
    assert graft.by_seed("knn") == {seed: outcomes[f"graft_slow/seed-{seed}"]["test"]["knn"] for seed in range(5)}
    assert found.find("scratch", "compute").name == "scratch_compute"  # type: ignore[union-attr]
    for budget in ("epochs", "compute"):  # every arm takes part in both comparisons, but for those that explain VICReg
        both = [name for name, arm in ARMS.items() if budget == "epochs" or arm.compute or arm.floor]
        same = [name for name in ARMS if name not in both and study.costs.same(ARMS[name])]
        taking_part = [arm.name.removesuffix(COMPUTE) for arm in found.taking_part(budget)]  # type: ignore[arg-type]
        assert taking_part == [name for name in ARMS if name in both or name in same]


def test_equal_compute(costs: Costs, study: ClaimsStudy, played: Played) -> None:
    """Chains at equal compute take the operations of MAE and the uniform graft, to half a step a stage."""
    jobs = played[0]
    budget = costs.of_arm["mae"] + costs.of_arm["graft_uniform"]
    trained = [name for name in study.lengths if study.arm(name).recipe is not None]
    assert 0 < sum(name.endswith(COMPUTE) for name in trained) < len(trained)
    for name in trained:
        arm = study.arm(name)
        total = costs.before(arm) + costs.training(jobs[f"{name}/seed-0"].recipe)
        steps = sum(costs.training(one) for one in one_step(jobs[f"{name}/seed-0"].recipe))
        if name.endswith(COMPUTE):
            assert abs(total - budget) <= steps / 2, name  # each stage is rounded to whole steps
        else:
            lacks = name + COMPUTE not in study.lengths
            assert (abs(total / budget - 1) <= SAME or not arm.compute) == lacks


def one_step(recipe: Recipe) -> Iterator[Recipe]:
    """Each stage of a recipe, a step long."""
    for name, stage in recipe.stages.items():
        yield structs.replace(recipe, stages={name: structs.replace(stage, epochs=1 / (IMAGES // stage.batch_size))})


def vit_forward(tokens: int, width: int, blocks: int, mlp: int = 4) -> int:
    """Operations of a ViT's blocks on one image, by hand: four projections, attention, two layers of the MLP."""
    return blocks * (2 * tokens * width * width * (4 + 2 * mlp) + 2 * 2 * tokens * tokens * width)


def test_operations_of_frozen_layers_by_hand(costs: Costs) -> None:
    """What freezing the lowest block spares of MoCo v3: for both views, the online encoder's forward pass up to that
    block, which it shares with the momentum encoder then, and the block's backward pass, twice its forward pass."""
    uniform, frozen = (
        costs.training(arm_recipe(ARMS[name], SMOKE, SOURCE, 0)) for name in ("graft_uniform", "graft_frozen")
    )
    stage = arm_recipe(ARMS["graft_uniform"], SMOKE, SOURCE, 0).stages["graft"]
    patches, images = 16 // 2, round(steps_of(stage, IMAGES)) * stage.batch_size  # half of the patches are kept
    embedding, block = 2 * patches * 9 * 9 * 32, vit_forward(1 + patches, 32, 1)
    assert uniform - frozen == 2 * images * (embedding + 3 * block)


def test_remaining_time() -> None:
    done = [{"seconds": 2.0 + 3.0 * flops, "flops": flops} for flops in (0.0, 1.0, 2.0)]
    assert remaining_seconds(done, [1.0, 5.0], 2) == pytest.approx((5 + 17) / 2)
    assert remaining_seconds(done[:1], [1.0, 5.0], 1) == pytest.approx(4)


def test_due_leaves_out_what_runs(study: ClaimsStudy) -> None:
    first = next(study.due({})).name
    assert first not in [job.name for job in itertools.islice(study.due({}, {first}), 3)]
