"""Do the two losses pull a block in opposite directions? The cosine of their gradients, per image and per block.

The argument of Layer Grafted Pre-training (ICLR 2023): for an image x and the parameters of one block,
C(x) = <g_mim, g_cl> / (|g_mim| |g_cl|), with the gradients of x's own loss terms (see `terms`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from layergraft.analysis.charts import LAYER_AXIS
from layergraft.analysis.fitted import fit_heads, objective_batch
from layergraft.analysis.subject import NotApplicable, Subject
from layergraft.analysis.terms import SampleLoss, Terms, mim_terms, moco_terms, plain_attention, simclr_terms
from layergraft.config.objectives import MaeConfig, MocoConfig, SimclrConfig
from layergraft.encoders.products import torch_alone
from layergraft.encoders.vit import Encoder
from layergraft.objectives.mae import Mae
from layergraft.objectives.moco import Moco
from layergraft.objectives.simclr import Simclr
from layergraft.objectives.views import VIEWS
from layergraft.runs.figure import ChartRows, Figure, field, tooltip
from layergraft.runs.findings import Findings
from layergraft.runs.interruption import check
from layergraft.runs.readable import counted

IMAGES = 256
# Images whose gradients are in memory at once: more are a quarter quicker, and all of them may take this many bytes.
CHUNK, CHUNK_BYTES = 8, 2**31


class _WithEncoder(nn.Module):
    """A loss as a module of its encoder, so that parameters can be put in from outside."""

    def __init__(self, encoder: Encoder, loss: SampleLoss) -> None:
        super().__init__()
        self.encoder, self._loss = encoder, loss

    def forward(self, *arguments: Tensor) -> Tensor:
        return self._loss(self.encoder, *arguments)


def block_parameters(encoder: Encoder) -> dict[str, tuple[int, Tensor]]:
    """Name in `_WithEncoder` -> (block, value), for the parameters of all blocks."""
    owner = {id(p): index for index, block in enumerate(encoder.vit.blocks) for p in block.parameters()}
    return {f"encoder.{name}": (owner[id(p)], p.detach()) for name, p in encoder.named_parameters() if id(p) in owner}


def sample_gradients(encoder: Encoder, terms: Terms, chunk: int = CHUNK) -> Iterator[dict[str, Tensor]]:
    """Gradients of every image's loss, some images at a time: parameter -> (images, *shape)."""
    module = _WithEncoder(encoder, terms.loss)
    values = {name: value for name, (_, value) in block_parameters(encoder).items()}

    def loss(parameters: dict[str, Tensor], *arguments: Tensor) -> Tensor:
        with torch_alone():
            result: Tensor = functional_call(module, parameters, arguments)
        return result

    gradient = vmap(grad(loss), in_dims=(None, *(0 for _ in terms.arguments)))
    for start in range(0, len(terms.arguments[0]), chunk):
        check()
        yield gradient(values, *(argument[start : start + chunk] for argument in terms.arguments))


def cosines_of(a: dict[str, Tensor], b: dict[str, Tensor], blocks: dict[str, int], depth: int) -> Tensor:
    """Cosine of the two gradients of every image in every block, float64 of shape (images, blocks).

    Args:
        a: parameter -> gradients of one loss, (images, *shape).
        b: of the other.
        blocks: parameter -> its block.
        depth: how many blocks there are.
    """
    sums = torch.zeros(3, depth, len(next(iter(a.values()))), dtype=torch.float64)
    for name, block in blocks.items():
        x, y = a[name].flatten(1), b[name].flatten(1)
        for row, (p, q) in enumerate(((x, y), (x, x), (y, y))):
            sums[row, block] += (p * q).sum(1).double().cpu()
    return (sums[0] / (sums[1] * sums[2]).sqrt().clamp(min=1e-30)).T


def gradient_cosines(encoder: Encoder, first: Terms, second: Terms, chunk: int | None = None) -> Tensor:
    """C(x) of every image and block, float64 of shape (images, blocks).

    Args:
        encoder: whose blocks are meant; it is left as it is.
        first: one loss.
        second: the other, of the same images.
        chunk: images whose gradients are in memory at once; None takes as many as pay and fit.
    """
    if chunk is None:
        size = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
        chunk = max(1, min(CHUNK, CHUNK_BYTES // size))
    plain = plain_attention(encoder)
    blocks = {name: block for name, (block, _) in block_parameters(plain).items()}
    a, b = sample_gradients(plain, first, chunk), sample_gradients(plain, second, chunk)
    # No name and no zip holds the gradients of some images while those of the next are computed.
    steps = range(0, len(first.arguments[0]), chunk)
    return torch.cat([cosines_of(next(a), next(b), blocks, plain.depth) for _ in steps])


@functools.lru_cache(maxsize=1)
def measure(subject: Subject) -> tuple[Tensor, list[str]]:
    """(cosines of shape (images, blocks), how the heads were come by)."""
    encoder = subject.encoder
    if not encoder.per_sample:
        raise NotApplicable("the encoder has BatchNorm, so an image has no gradient of its own")
    mim, cl = subject.last_part(MaeConfig), subject.last_part(MocoConfig, SimclrConfig)
    if mim is None or cl is None:
        raise NotApplicable("it needs fitted heads of mae and moco or simclr: the stages of a run, or one joint stage")
    if any(cl.stage.views[view].size not in (None, encoder.img_size) for view in VIEWS):
        raise NotApplicable("the contrastive views are larger or smaller than the encoder's images")
    source = subject.sample(IMAGES)
    terms: list[Terms] = []
    notes: list[str] = []
    for part in (mim, cl):
        objective = part.load(encoder)
        if part.stage.name != subject.stage:
            subject.check_bank()
            losses = fit_heads(objective, encoder, part, subject.bank, subject.random)
            notes.append(
                f"The heads of {part.name} come from stage {part.stage.name}: they were fitted to this encoder, which "
                f"stood still, for {counted(len(losses), 'step')} (loss {losses[0]:.3f} to {losses[-1]:.3f})."
            )
        batch = objective_batch(encoder, part, source, subject.random)
        if isinstance(objective, Mae):
            terms.append(mim_terms(encoder, objective, batch))
        elif isinstance(objective, Moco):
            terms.append(moco_terms(encoder, objective, batch))
        elif isinstance(objective, Simclr):
            terms.append(simclr_terms(encoder, objective, batch))
    first, second = terms
    return gradient_cosines(encoder, first, second), notes


def conflict(subject: Subject) -> Findings:
    """Distribution of the cosine in each block, its mean, and the share of images in conflict."""
    cosines, notes = measure(subject)
    data: ChartRows = [
        {"block": str(block), "cosine": round(value, 5), "jitter": (image * 0.618034) % 1}
        for block, column in enumerate(cosines.T.tolist())
        for image, value in enumerate(column)
    ]
    numbers = [
        {
            "block": block,
            "mean": float(of_block.mean()),
            "standard_error": float(of_block.std() / len(of_block) ** 0.5),
            "negative": float((of_block < 0).double().mean()),
        }
        for block, of_block in enumerate(cosines.T)
    ]
    notes.append(
        f"{counted(len(cosines), 'image')} as one batch; keys (of SimCLR the other images) and BatchNorm statistics of "
        "the batch are computed once and held constant, an image's own terms are differentiated, both directions."
    )
    return Findings(numbers={"blocks": numbers}, figures=[_distribution(data), _share(numbers)], notes=notes)


def _distribution(data: ChartRows) -> Figure:
    x = LAYER_AXIS | {"field": "block", "title": "block"}
    y = field("cosine", "quantitative", "cosine of the two gradients")
    sign = {"condition": {"test": "datum.cosine < 0", "value": "#d64f63"}, "value": "#3d7fd9"}
    mean = {"aggregate": "mean", "field": "cosine", "type": "quantitative"}
    spec = {
        "encoding": {"x": x},
        "layer": [
            {
                "mark": {"type": "rule", "strokeDash": [4, 4]},
                "encoding": {"y": {"datum": 0}, "x": {"value": 0}, "x2": {"value": "width"}},
            },
            {
                "mark": {"type": "circle", "size": 14, "opacity": 0.55},
                "encoding": {
                    "y": y,
                    "color": sign,
                    "xOffset": {"field": "jitter", "type": "quantitative", "scale": {"domain": [-0.2, 1.2]}},
                    "tooltip": tooltip("block", cosine=".3f"),
                },
            },
            {"mark": {"type": "line", "strokeWidth": 2, "color": "#8a8f98"}, "encoding": {"y": mean}},
            {
                "mark": {"type": "point", "filled": True, "size": 70, "color": "#8a8f98"},
                "encoding": {
                    "y": mean,
                    "tooltip": [field("block", "nominal"), mean | {"title": "mean", "format": ".3f"}],
                },
            },
        ],
    }
    return Figure(
        name="conflict",
        title="Do the losses agree?",
        caption="A dot per image: cosine between the gradients of the masked-image and the contrastive loss in a "
        "block. Below 0 (red) they pull in opposite directions. Line: mean.",
        data=data,
        spec=spec,
    )


def _share(numbers: ChartRows) -> Figure:
    data = [{"block": str(row["block"]), "in conflict": 100 * row["negative"], "mean": row["mean"]} for row in numbers]
    encoding = {
        "x": LAYER_AXIS | {"field": "block", "title": "block"},
        "y": field("in conflict", "quantitative", "images in conflict (%)", scale={"domain": [0, 100]}),
        "tooltip": tooltip("block", **{"in conflict": ".0f", "mean": ".3f"}),
    }
    return Figure(
        name="conflict-share",
        title="Images in conflict",
        caption="Share of images whose two gradients have a negative cosine, by block.",
        data=data,
        spec={"mark": {"type": "bar", "color": "#d64f63", "cornerRadiusEnd": 3}, "encoding": encoding},
    )
