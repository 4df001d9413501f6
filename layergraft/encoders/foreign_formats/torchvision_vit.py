"""torchvision's `vit_b_16` and its like."""

from __future__ import annotations

from layergraft.encoders.foreign_formats.foreign import (
    Content,
    Foreign,
    Rule,
    explained,
    inner,
    others,
    renamed,
    summary,
    take,
    take_classifier,
    take_encoder,
)

_TIMM: tuple[Rule, ...] = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),  # `linear_1` and `linear_2` before version 0.13
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
)
_EPS = 1e-6


def read_torchvision(content: Content, name: str) -> Foreign | None:
    """Read a `VisionTransformer` of torchvision; None where its positions and patch projection are not there."""
    left, beside = inner(content)
    if not {"encoder.pos_embedding", "conv_proj.weight"} <= left.keys():
        return None
    hidden = summary(take(left, "heads.pre_logits."), "layer in front of the classifier")
    classifier = take_classifier(left, "heads.head.")
    if hidden:  # then it does not take the feature
        hidden += summary(classifier, "classifier of another input than the feature")
        classifier = {}
    left = renamed(left, _TIMM)
    encoder = take_encoder(left)
    explained(left, name, "a ViT of torchvision")
    return Foreign(
        format="torchvision ViT",
        encoders={"model": encoder},
        classifiers={"model": classifier},
        unused=hidden + others(beside, name, "a ViT of torchvision"),
        arguments={"norm_eps": _EPS},
    )
