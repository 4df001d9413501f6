"""How well scores that need no label rank the encoders of a study by the accuracy that they reach with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from layergraft.commands.study.statistics import distributions
from layergraft.commands.study.study_file import MeasuredStudy, few_shot_mean
from layergraft.runs.report.section import Section, Table

Numbers = npt.NDArray[np.float64]
Pair = tuple[Numbers, Numbers]
"""(scores, accuracies) of the encoders of a group, each of shape (N,)."""
SAMPLES = 2000
FEWEST = 3  # encoders that an order can be told of
FEWEST_DRAWN = 8  # of fewer, the bootstrap's intervals are far too narrow
TITLES = {
    "single_images": "single images recognised by few views",
    "rankme": "RankMe",
    "lidar": "LiDAR",
    "alpha_req": "α-ReQ",
    "alignment": "alignment (distance of views)",
    "uniformity": "uniformity",
    "pixel_clusters": "pseudo-tasks: clusters of pixels",
    "loss": "training loss at the end",
}


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Rank correlation (Spearman) of a score with accuracy.

    Args:
        mean: over groups.
        low: end of the 95 % interval by bootstrap; None where too few were drawn from.
        high: its other end.
        groups: seeds, or arms.
        encoders: of all groups.
    """

    mean: float
    low: float | None
    high: float | None
    groups: int
    encoders: int


def ranks(values: Numbers) -> Numbers:
    """Ranks from 0 along the last axis, equal values sharing their mean."""
    return np.asarray(distributions().rankdata(values, axis=-1) - 1, dtype=np.float64)


def correlations(a: Numbers, b: Numbers) -> Numbers:
    """Rank correlation along the last axis; 0 where one of them is constant."""
    x, y = (part - part.mean(-1, keepdims=True) for part in (ranks(a), ranks(b)))
    size = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.asarray((x * y).sum(-1) / np.maximum(size, 1e-12))


def over_encoders(pairs: Sequence[Pair]) -> Ranking:
    """The mean over groups of the same encoders, which are drawn anew, the same in each group."""
    drawn = np.random.default_rng(0).integers(0, len(pairs[0][0]), (SAMPLES, len(pairs[0][0])))
    sampled = np.mean([correlations(a[drawn], b[drawn]) for a, b in pairs], axis=0)
    return _ranking(pairs, sampled, len(pairs[0][0]))


def over_groups(pairs: Sequence[Pair]) -> Ranking:
    """The mean over groups, which are drawn anew."""
    each = np.array([float(correlations(a, b)) for a, b in pairs])
    drawn = np.random.default_rng(0).integers(0, len(pairs), (SAMPLES, len(pairs)))
    return _ranking(pairs, each[drawn].mean(1), len(pairs))


def _ranking(pairs: Sequence[Pair], sampled: Numbers, units: int) -> Ranking:
    mean = float(np.mean([correlations(a, b) for a, b in pairs]))
    low, high = map(float, np.quantile(sampled, (0.025, 0.975))) if units >= FEWEST_DRAWN else (None, None)
    return Ranking(mean=mean, low=low, high=high, groups=len(pairs), encoders=sum(len(a) for a, _ in pairs))


def rankings(study: MeasuredStudy) -> dict[str, dict[str, Ranking]]:
    """Score -> `arms` and `trials` -> how well it ranks them; nothing where no score or no label is there."""
    if not study.labelled:
        return {}
    found: dict[str, dict[str, Ranking]] = {}
    for score in TITLES:
        arms, trials = _arms(study, score), _trials(study, score)
        if arms:
            found.setdefault(score, {})["arms"] = over_encoders(arms)
        if trials:
            found.setdefault(score, {})["trials"] = over_groups(trials)
    return found


def _arms(study: MeasuredStudy, score: str) -> list[Pair]:
    """A group for each seed that all scored arms have."""
    scored = [arm for arm in study.arms if any(score in seed.scores for seed in arm.seeds)]
    if len(scored) < FEWEST:
        return []
    seeds = set.intersection(*({seed.seed for seed in arm.seeds if score in seed.scores} for arm in scored))
    pairs = []
    for number in sorted(seeds):
        of_arms = [next(seed for seed in arm.seeds if seed.seed == number) for arm in scored]
        reached = [few_shot_mean(seed.holdout if study.choose == "held_out" else seed.test) for seed in of_arms]
        pairs.append((np.array([seed.scores[score] for seed in of_arms]), np.array(reached)))
    return pairs


def _trials(study: MeasuredStudy, score: str) -> list[Pair]:
    """A group for each arm whose search tried enough; none where it was the score itself that chose."""
    if study.choose == "label_free":
        return []
    pairs = []
    for arm in study.searched:
        tried = [trial for trial in arm.search if score in trial.scores]
        if len(tried) >= FEWEST:
            values = (np.array([trial.scores[score] for trial in tried]), np.array([trial.holdout for trial in tried]))
            pairs.append(values)
    return pairs


def ranking_text(ranking: Ranking | None, mark: Mapping[bool, str]) -> str:
    """`+0.62 (+0.31 to +0.80)`, marked where the interval leaves 0 out; empty where nothing was measured."""
    if ranking is None:
        return ""
    text = f"{ranking.mean:+.2f}"
    if ranking.low is None or ranking.high is None:
        return text.replace("-", "−")
    text = f"{text} ({ranking.low:+.2f} to {ranking.high:+.2f})".replace("-", "−")
    return mark[ranking.low > 0 or ranking.high < 0].format(text)


def ranking_table(study: MeasuredStudy, mark: Mapping[bool, str] | None = None) -> Table | None:
    """Every score, the best first; None where there are none.

    Args:
        study: what was measured.
        mark: how a correlation is written whose interval holds 0 (False) or does not (True), with `{}` for it.
    """
    found = rankings(study)
    if not found:
        return None
    over = [name for name in ("arms", "trials") if any(name in row for row in found.values())]
    order = sorted(found, key=lambda score: -abs(found[score][over[0]].mean) if over[0] in found[score] else 0.0)
    rows = [
        [TITLES[score], *(ranking_text(found[score].get(name), mark or {False: "{}", True: "{} *"}) for name in over)]
        for score in order
    ]
    groups = {name: max((row[name] for row in found.values() if name in row), key=_encoders) for name in over}
    heads = {"arms": "over {} arms and {} seeds", "trials": "over {} trials of {} arms"}
    counts = {name: (g.encoders // (g.groups if name == "arms" else 1), g.groups) for name, g in groups.items()}
    return Table(
        title="Scores that need no label, against accuracy with few labels",
        columns=["", *(heads[name].format(*counts[name]) for name in over)],
        rows=rows,
        note="Rank correlation (Spearman) with accuracy with few labels on "
        f"{'held-out' if study.choose == 'held_out' else 'test'} images: over arms within a seed, the mean of the "
        "seeds; over the trials of an arm's search, the mean of the arms. In brackets the 95 % interval by bootstrap "
        f"over arms ({FEWEST_DRAWN} or more), marked where it leaves 0 out. Labels are looked at to judge the scores "
        "alone.",
    )


def _encoders(ranking: Ranking) -> int:
    return ranking.encoders


def ranking_section(study: MeasuredStudy) -> Section | None:
    """The table as a part of a page; None where no score was measured."""
    table = ranking_table(study)
    if table is None:
        return None
    return Section(
        name="scores",
        title="Could it have been chosen without labels?",
        intro="Scores of every encoder that need no label. Recognising single images by few views of each is what "
        "`choose: label_free` of `layergraft ablate` chooses by.",
        blocks=[table],
    )
