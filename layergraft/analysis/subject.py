"""What is analysed: an encoder, perhaps a second one, images, and the fitted heads of its run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from layergraft.analysis.fitted import FittedPart, FittedStage
from layergraft.config.base import Config
from layergraft.data.batch import Normalize
from layergraft.data.decode import BadImage
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import count_reasons
from layergraft.data.sources.source import Source
from layergraft.encoders.products import Products
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.features import NonFiniteFeatures, view_batches
from layergraft.runs.interruption import check
from layergraft.runs.readable import counted


class NotApplicable(Exception):
    """An analysis cannot say anything about this encoder or these images; the message says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What an analysis looks at: encoders, the images that are shown to them, and the run that they came from.

    Args:
        encoders: name -> encoder in evaluation mode: the one that is analysed, then the one it is compared with.
        images: what is shown to it; images that trained nothing where the run knows them.
        bank: images whose neighbours and labels are used.
        queries: images that are looked up in the bank; disjoint from it.
        stages: all stages of the encoder's run that left heads.
        stage: which of them the encoder is the result of.
        seed: of the sample of images and of every other draw.
        held_out: whether `images` are known to have trained nothing.
        readable: what was found out about images so far, by key; all sources here are parts of one.
        block: whose feature is explained, where an analysis explains one; None is the last.
        products: what multiplies matrices, as in the encoder's run.
    """

    encoders: dict[str, Encoder]
    images: Source
    bank: Source
    queries: Source
    stages: list[FittedStage] = field(default_factory=list)
    stage: str | None = None
    seed: int = 0
    held_out: bool = False
    readable: dict[int, bool] = field(default_factory=dict)
    block: int | None = None
    products: Products = "torch"

    @property
    def shown(self) -> str:
        """What a caption calls the images."""
        return "Held-out images" if self.held_out else "Images"

    @property
    def name(self) -> str:
        return next(iter(self.encoders))

    @property
    def encoder(self) -> Encoder:
        return self.encoders[self.name]

    @property
    def random(self) -> Randomness:
        return Randomness(seed=self.seed, scope="analysis")

    def last_part(self, *kinds: type[Config]) -> FittedPart | None:
        """The fitted objective of these kinds in the encoder's own stage, else in the nearest before it, or after."""
        names = [stage.name for stage in self.stages]
        own = names.index(self.stage) if self.stage in names else len(names) - 1
        for stage in [*self.stages[own::-1], *self.stages[own + 1 :]]:
            for part in stage.parts():
                if isinstance(part.config, kinds):
                    return part
        return None

    def check_bank(self) -> None:
        """Find out whether there are images to compare others with.

        Raises:
            NotApplicable: there is none.
        """
        if not len(self.bank):
            raise NotApplicable("no image is left to compare others with: all labelled ones are held out")

    def check_queries(self) -> None:
        """Find out whether there are images to look up in a bank.

        Raises:
            NotApplicable: there is none, or the bank is empty.
        """
        if not len(self.queries):
            raise NotApplicable("no image is left to look up: the source has too few")
        self.check_bank()

    def sample(self, count: int, source: Source | None = None) -> Source:
        """At most `count` readable images, by default of `images`, drawn at random but always the same.

        Raises:
            UserError: there are images, but none can be read.
            NotApplicable: that is so of a `source`, a part of them.
        """
        whole = source is None
        source = self.images if source is None else source
        chosen: list[int] = []
        reasons: dict[int, str] = {}
        for key in source.keys[self.random.permutation("sample", source.keys, 0)].tolist():
            check()
            if len(chosen) == count:
                break
            if key not in self.readable:
                try:
                    source.images.load(key, self.encoder.in_chans)
                    self.readable[key] = True
                except BadImage as error:
                    self.readable[key], reasons[key] = False, str(error)
            if self.readable[key]:
                chosen.append(key)
        if len(source) and not chosen:
            if not whole:  # which may have been found out for another analysis
                raise NotApplicable(f"of {counted(len(source), 'image')} that it needs none can be read")
            raise UserError(
                f"None of the {len(source)} images of {source.spec!r} can be read: {count_reasons(reasons)}.",
                "Mend them, or name others.",
            )
        return source.subset(np.array(chosen, dtype=np.int64))


def inputs(encoder: Encoder, source: Source, batch_size: int = 64) -> Iterator[Tensor]:
    """The test views of a source as normalised batches (N, C, H, W)."""
    normalize = Normalize(mean=encoder.mean, std=encoder.std)
    for pixels in view_batches(source, encoder.img_size, encoder.in_chans, batch_size):
        yield normalize(pixels.to(encoder.device))


def layer_names(encoder: Encoder) -> list[str]:
    """`embed`, what goes into the first block, then the index of each block, as a plan names them."""
    return ["embed", *(str(index) for index in range(encoder.depth))]


def layer_tokens(encoder: Encoder, images: Tensor) -> list[Tensor]:
    """Tokens (N, T, D) at each of `layer_names`."""
    tokens = encoder.tokens(images)
    _, outputs = encoder.run_blocks(tokens, return_blocks=range(encoder.depth))
    return [tokens, *(outputs[index] for index in range(encoder.depth))]


def patch_tokens(encoder: Encoder, tokens: Tensor) -> Tensor:
    """(N, T, D) without class token and registers: (N, patches, D)."""
    return tokens[:, encoder.prefix_tokens :]


@torch.inference_mode()
def layer_features(encoder: Encoder, source: Source) -> list[Tensor]:
    """Features (N, D) at each of `layer_names`, in float64: the class token, or the mean of the patches without one.

    The final norm is applied at every layer: without it a few large channels would decide everything.

    Raises:
        NonFiniteFeatures: an image has a feature that is NaN or infinite.
    """
    parts: list[list[Tensor]] = [[] for _ in range(encoder.depth + 1)]
    for images in inputs(encoder, source):
        for part, tokens in zip(parts, layer_tokens(encoder, images), strict=True):
            part.append(encoder.feature(encoder.norm(tokens)).double().cpu())
    features = [torch.cat(part) for part in parts]
    nonfinite = ~torch.stack([layer.isfinite().all(dim=1) for layer in features]).all(dim=0)
    if nonfinite.any():
        raise NonFiniteFeatures(int(nonfinite.sum()))
    return features
