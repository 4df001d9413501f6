"""Every analysis by its name.

To add one: a file with a function of a `Subject`, a line here and its name in `layergraft.config.analysis`.
"""

from __future__ import annotations

from collections.abc import Callable

from layergraft.analysis.attention_distance import attention_distance
from layergraft.analysis.attention_maps import last_attention
from layergraft.analysis.cka import cka
from layergraft.analysis.conflict import conflict
from layergraft.analysis.information import information
from layergraft.analysis.invariance import invariance
from layergraft.analysis.layer_probe import layer_probe
from layergraft.analysis.map import plane_map
from layergraft.analysis.neighbours import neighbours
from layergraft.analysis.pca import pca
from layergraft.analysis.rank import rank
from layergraft.analysis.reconstruct import reconstruct
from layergraft.analysis.saliency import saliency
from layergraft.analysis.spectrum import spectrum
from layergraft.analysis.subject import Subject
from layergraft.analysis.suggest import suggest
from layergraft.analysis.supervised_gradient import supervised_gradient
from layergraft.analysis.token_similarity import token_similarity
from layergraft.analysis.uniformity import uniformity_and_alignment
from layergraft.config.analysis import AnalysisName
from layergraft.runs.findings import Findings

ANALYSES: dict[AnalysisName, Callable[[Subject], Findings]] = {
    "conflict": conflict,
    "suggest": suggest,
    "layer-probe": layer_probe,
    "supervised-gradient": supervised_gradient,
    "cka": cka,
    "attention-distance": attention_distance,
    "rank": rank,
    "uniformity": uniformity_and_alignment,
    "invariance": invariance,
    "information": information,
    "token-similarity": token_similarity,
    "spectrum": spectrum,
    "reconstruct": reconstruct,
    "neighbours": neighbours,
    "attention-maps": last_attention,
    "saliency": saliency,
    "pca": pca,
    "map": plane_map,
}
