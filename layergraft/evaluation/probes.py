"""Fitted classifiers: `RUN/probes/*.safetensors`.

One file each. Tensors: `weight` (C, D) and `bias` (C,), float32. Metadata: one key `probe` with a JSON object:

    format      1
    classes     names, in the order of the rows of `weight`
    pooling     of the encoder's features: cls, mean, cls+mean, last4
    block       whose output is pooled; null is the last
    center      whether each feature's own mean is subtracted from it first
    normalize   whether it is L2-normalised then
    encoder, source, protocol, variant, shots, split, chosen    as in the row of results.json that it was measured in

Logits are `normalised(feature) @ weight.T + bias`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save
from torch import Tensor, nn

from layergraft.encoders.safe_load import read_noted
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.features import POOLINGS, pool_all
from layergraft.runs.atomic import write_bytes
from layergraft.runs.readable import counted, slug
from layergraft.runs.results import features_called

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear classifier on an encoder's features.

    Args:
        weight: of shape (C, D).
        bias: of shape (C,).
        classes: their names.
        encoder: as in results.json.
        source: where its labels came from.
        protocol: which protocol fitted it.
        variant: of the protocol.
        shots: labels per class, or a percentage.
        split: number of the split.
        pooling: of the features.
        block: whose output is pooled; None is the last.
        center: subtract each feature's own mean.
        normalize: L2-normalise each feature.
        chosen: what was chosen, and on what.
    """

    weight: Tensor
    bias: Tensor
    classes: list[str]
    encoder: str
    source: str
    protocol: str
    variant: str | None
    shots: str
    split: str
    pooling: str
    block: int | None = None
    center: bool = True
    normalize: bool = True
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its file."""
        words = [self.encoder, self.protocol, self.variant or "", self.shots.replace("%", "percent")]
        words.append(features_called(self.pooling, self.block))
        return "-".join(filter(None, map(slug, words)))


def save_probe(probe: Probe, directory: Path) -> Path:
    """Write a probe to `directory`; one of the same name is replaced."""
    metadata = {key: value for key, value in asdict(probe).items() if key not in ("weight", "bias")}
    tensors = {key: value.detach().cpu().float().contiguous() for key, value in _tensors(probe).items()}
    path = directory / f"{probe.name}.safetensors"
    write_bytes(path, save(tensors, metadata={"probe": json.dumps({"format": FORMAT} | metadata)}))
    return path


def _tensors(probe: Probe) -> dict[str, Tensor]:
    return {"weight": probe.weight, "bias": probe.bias}


def load_probe(path: str | Path) -> Probe:
    """Read a probe.

    Raises:
        UserError: it is none, or of a later format.
    """
    hint = "Give a file of RUN/probes/."
    tensors, metadata = read_noted(Path(path), "probe", dict[str, Any], hint)
    if metadata.pop("format", FORMAT) != FORMAT:
        raise UserError(f"{str(path)!r} was written by a later version of layergraft.", "Update layergraft.")
    try:
        probe = msgspec.convert(metadata | tensors, Probe)
    except msgspec.ValidationError as error:
        raise UserError(f"{str(path)!r} is no fitted classifier: {error}.", hint) from None
    fits = probe.weight.ndim == 2 and probe.weight.shape[0] == len(probe.classes) == probe.bias.numel()
    if not fits or probe.bias.ndim != 1 or probe.pooling not in POOLINGS:
        shapes = f"weight of shape {tuple(probe.weight.shape)}, bias of shape {tuple(probe.bias.shape)}"
        found = f"{counted(len(probe.classes), 'class')}, pooling {probe.pooling!r}, {shapes}"
        raise UserError(f"{str(path)!r} is no fitted classifier: {found}.", hint)
    return replace(probe, weight=probe.weight.float(), bias=probe.bias.float())


class ProbeClassifier(nn.Module):
    """Encoder and probe as one classifier: normalised images (N, C, H, W) -> logits (N, classes)."""

    def __init__(self, encoder: Encoder, probe: Probe) -> None:
        super().__init__()
        self.encoder, self.probe = encoder, probe
        self.head = nn.Linear(probe.weight.shape[1], probe.weight.shape[0])
        self.head.load_state_dict(_tensors(probe))

    def forward(self, images: Tensor) -> Tensor:
        features = pool_all(self.encoder, images, [self.probe.pooling], self.probe.block)[self.probe.pooling]
        if self.probe.center:
            features = features - features.mean(dim=1, keepdim=True)
        if self.probe.normalize:
            features = torch.nn.functional.normalize(features, dim=1, eps=1e-12)
        logits: Tensor = self.head(features)
        return logits
