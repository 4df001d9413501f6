"""Tell the format of a file from its keys: the readers in turn, then the same ones below a prefix."""

from __future__ import annotations

from layergraft.encoders.foreign_formats.big_vision import read_big_vision
from layergraft.encoders.foreign_formats.clip import read_openai_clip, read_transformers_clip
from layergraft.encoders.foreign_formats.dinov2 import read_dinov2
from layergraft.encoders.foreign_formats.dinov3 import read_dinov3
from layergraft.encoders.foreign_formats.foreign import Content, Foreign, Reader, inner
from layergraft.encoders.foreign_formats.ijepa import read_ijepa
from layergraft.encoders.foreign_formats.moco import read_moco
from layergraft.encoders.foreign_formats.monai_vit import read_monai
from layergraft.encoders.foreign_formats.refiner import read_refiner
from layergraft.encoders.foreign_formats.refusals import refuse_known
from layergraft.encoders.foreign_formats.self_distillation import read_self_distillation
from layergraft.encoders.foreign_formats.timm_names import read_timm_names
from layergraft.encoders.foreign_formats.torchvision_vit import read_torchvision
from layergraft.encoders.foreign_formats.transformers_vit import read_transformers_vit
from layergraft.encoders.foreign_formats.wrappers import read_wrapped
from layergraft.errors import UserError

# The first that knows the keys is taken, so the most particular ones come first.
READERS: tuple[Reader, ...] = (
    read_self_distillation,
    read_ijepa,
    read_moco,
    read_dinov3,
    read_dinov2,
    read_refiner,
    read_transformers_vit,
    read_transformers_clip,
    read_openai_clip,
    read_torchvision,
    read_monai,
    read_big_vision,
    read_timm_names,
)
_KNOWN = (
    "MAE, MoCo v3, layer-grafted, DINO, iBOT, DINOv2, DINOv3, I-JEPA, MIM-Refiner, timm, the ViTs and CLIP and SigLIP "
    "of Hugging Face, open_clip, torchvision, MONAI, Prithvi, big_vision, and these below one prefix"
)


def detect(content: Content, name: str) -> Foreign:
    """Tell the format from the keys.

    Args:
        content: what the file holds.
        name: the file, for messages.

    Raises:
        UserError: no known format, or tensors that the format does not explain.
    """
    for reader in READERS:
        foreign = reader(content, name)
        if foreign is not None:
            return foreign
    wrapped = read_wrapped(content, name, READERS)
    if wrapped is not None:
        return wrapped
    weights, _ = inner(content)
    refuse_known(weights, name)
    raise UserError(
        f"{name!r} is in no format that is known here; its first keys: {', '.join(list(map(str, weights))[:5])}.",
        f"Known: {_KNOWN}.",
    )
