"""The names of the analyses, in the order of the report; `layergraft.analysis.registry` holds what they do."""

from __future__ import annotations

from typing import Literal

AnalysisName = Literal[
    "conflict",
    "suggest",
    "layer-probe",
    "supervised-gradient",
    "cka",
    "attention-distance",
    "rank",
    "uniformity",
    "invariance",
    "information",
    "token-similarity",
    "spectrum",
    "reconstruct",
    "neighbours",
    "attention-maps",
    "saliency",
    "pca",
    "map",
]
