"""The names of the analyses, in the order of the report; `layergraft.analysis.registry` holds what they do."""

from __future__ import annotations

from typing import Literal

AnalysisName = Literal["cka", "rank", "attention-distance", "reconstruct", "neighbours"]
