"""Where does the class token look? Its attention in the last block, head by head."""

from __future__ import annotations

import torch
from torch import Tensor

from layergraft.analysis.attention import attention_maps, patch_attention
from layergraft.analysis.charts import gallery
from layergraft.analysis.pictures import heat, show
from layergraft.analysis.subject import Subject, inputs
from layergraft.data.thumbnails import address
from layergraft.encoders.vit import Encoder
from layergraft.runs.figure import ChartRows
from layergraft.runs.findings import Findings

IMAGES, HEADS = 6, 8


def feature_attention(encoder: Encoder, attention: Tensor) -> Tensor:
    """Attention (N, heads, T, T) -> (N, heads, patches): of the class token, or the mean over patches without one."""
    if encoder.prefix_tokens:
        of_class_token = attention[:, :, 0, encoder.prefix_tokens :]
        return of_class_token / of_class_token.sum(-1, keepdim=True).clamp(min=1e-12)
    return patch_attention(encoder, attention).mean(2)


@torch.inference_mode()
def last_attention(subject: Subject) -> Findings:
    """Images with the attention of each head of the last block over them."""
    encoder = subject.encoder
    source = subject.sample(IMAGES)
    images = next(inputs(encoder, source))
    attention = feature_attention(encoder, attention_maps(encoder, images)[-1]).cpu()
    data: ChartRows = []
    for row, (key, image, heads) in enumerate(zip(source.keys, images, attention, strict=True)):
        pixels, name = show(encoder, image), source.images.name(int(key))
        data.append({"row": row, "column": "image", "file": name, "image": address(pixels)})
        shown = {"mean": heads.mean(0)} | {f"head {i}": head for i, head in enumerate(heads[:HEADS])}
        for column, shares in shown.items():
            picture = heat((shares / shares.max()).reshape(encoder.grid), pixels)
            largest = int(shares.argmax())
            patch = f"row {largest // encoder.grid[1]}, column {largest % encoder.grid[1]}"
            peak = {"largest share": round(float(shares.max()), 3), "largest at": patch}
            data.append({"row": row, "column": column, "file": name, **peak, "image": address(picture)})
    who = "the class token" if encoder.prefix_tokens else "the patches on average"
    figure = gallery(
        "attention-maps",
        "Where it looks",
        f"Attention of {who} in the last block, mean and head by head; yellow is most.",
        data,
        "file",
        "column",
        "largest share",
        "largest at",
        top=True,
    )
    # The share of the most attended tenth of the patches: 0.1 is attention to all alike.
    tenth = max(1, round(attention.shape[2] / 10))
    numbers = {"share_of_top_tenth": attention.topk(tenth, dim=2).values.sum(2).mean(0).tolist()}
    return Findings(numbers=numbers, figures=[figure])
