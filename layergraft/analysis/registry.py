"""Every analysis by its name. To add one: a file with a function of a `Subject`, a line here and its name in
`layergraft.config.analysis`."""

from __future__ import annotations

from collections.abc import Callable

from layergraft.analysis.attention_distance import attention_distance
from layergraft.analysis.cka import cka
from layergraft.analysis.findings import Findings
from layergraft.analysis.neighbours import neighbours
from layergraft.analysis.rank import rank
from layergraft.analysis.reconstruct import reconstruct
from layergraft.analysis.subject import Subject
from layergraft.config.analysis import AnalysisName

ANALYSES: dict[AnalysisName, Callable[[Subject], Findings]] = {
    "cka": cka,
    "rank": rank,
    "attention-distance": attention_distance,
    "reconstruct": reconstruct,
    "neighbours": neighbours,
}
