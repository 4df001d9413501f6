"""`layergraft export`: an encoder in the form that another program reads, checked to give the same features.

What a format cannot express is refused, nothing is approximated; a file that gives other features is not left behind.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors.torch import save
from torch import Tensor, nn

from layergraft.encoders.adapt import norm_eps, num_heads
from layergraft.encoders.checkpoint import load_encoder, save_encoder
from layergraft.encoders.conv_stem import ConvStem
from layergraft.encoders.foreign_formats.transformers_names import from_timm
from layergraft.encoders.onnx_file import open_onnx, write_onnx
from layergraft.encoders.rotary import rotary_positions
from layergraft.encoders.vit import Encoder
from layergraft.errors import UserError
from layergraft.evaluation.features import feature_width
from layergraft.evaluation.probes import ProbeClassifier, load_probe
from layergraft.runs.announce import announce
from layergraft.runs.atomic import write_bytes, write_text
from layergraft.runs.interruption import check
from layergraft.runs.layout import run_directory
from layergraft.runs.readable import counted_shots
from layergraft.runs.report.model_card import MODEL_CARD, write_model_card

Format = Literal["timm", "hf", "onnx", "torch_export"]
ExportedModel = Callable[[Tensor], Tensor]
"""What another program makes of the file: normalised images -> features or logits."""
TOLERANCE = 1e-4  # of the largest entry of the features


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is to be written.

    Args:
        encoder: the encoder.
        module: it, or it with a classifier on top: normalised images to `output`.
        output: `features` or `logits`.
        about: what stands beside the weights in the file.
    """

    encoder: Encoder
    module: nn.Module
    output: str
    about: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written.

    Args:
        out: the directory or file.
        format: its format.
        difference: largest difference of its features or logits from ours, relative to their largest entry.
    """

    out: Path
    format: str
    difference: float


def export_encoder(encoder: str, format_name: Format, out: Path, with_head: Path | None) -> Export:
    """Write an encoder for another program; see `layergraft.export`."""
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{str(out)!r} exists already.", "Use another --out. Nothing was changed.")
    job = _job(encoder, format_name, with_head)
    check()
    writer = {"timm": _write_timm, "hf": _write_hf, "onnx": _write_onnx, "torch_export": _write_torch_export}[
        format_name
    ]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        working = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"Cannot write {str(out)!r}: {error.strerror}.") from None
    try:
        exported = writer(job, working / out.name)
        check()
        difference = _difference(job, exported)
        check()
        if run := run_directory(encoder):
            write_model_card(run[0], working / out.name, format_name, run[1])
        # More than one beside a file: a model card, the weights of a large ONNX model. A command that is told again
        # refuses an `out` that exists, so that comes last.
        for path in sorted(working.iterdir(), key=lambda path: path.name == out.name):
            if path.name != MODEL_CARD or not (out.parent / MODEL_CARD).exists():
                path.replace(out.parent / path.name)
    except OSError as error:
        raise UserError(f"Cannot write {str(out)!r}: {error.strerror or error}.", "Nothing was written.") from None
    finally:
        shutil.rmtree(working, ignore_errors=True)
    announce(
        f"{out} ({format_name}): {job.output} differ by {difference:.1e} of their largest entry. Input is normalised: "
        f"pixels in [0, 1]{_levels(job.encoder)}, mean {_numbers(job.encoder.mean)}, standard deviation "
        f"{_numbers(job.encoder.std)}."
    )
    return Export(out=out, format=format_name, difference=difference)


def _job(encoder: str, format_name: Format, with_head: Path | None) -> _Job:
    """Load what is exported.

    Raises:
        UserError: the classifier does not fit the encoder, or the format cannot express it.
    """
    loaded = load_encoder(encoder)
    about: dict[str, Any] = {"exported_from": encoder, "mean": list(loaded.mean), "std": list(loaded.std)}
    about |= _input(loaded)
    if with_head is None:
        return _Job(encoder=loaded, module=loaded, output="features", about=about)
    probe = load_probe(with_head)
    if format_name in ("timm", "hf"):
        raise UserError(
            f"{format_name} has no place for {str(with_head)!r}: its classifiers take the feature as it is, this one "
            "takes it centred and of length 1.",
            "Use onnx or torch_export.",
        )
    width = feature_width(loaded, probe.pooling, probe.block)
    if probe.weight.shape[1] != width:
        raise UserError(
            f"{str(with_head)!r} classifies {probe.weight.shape[1]} numbers, but {encoder!r} gives {width}.",
            f"It was fitted on {probe.encoder!r}.",
        )
    announce(
        f"{with_head}: fitted on {probe.encoder}, {probe.protocol}, {counted_shots(probe.shots)} of {probe.source}."
    )
    classifier = ProbeClassifier(loaded, probe).eval()
    about |= {
        "classes": probe.classes,
        "probe": {"protocol": probe.protocol, "shots": probe.shots, "source": probe.source},
    }
    return _Job(encoder=loaded, module=classifier, output="logits", about=about)


def _levels(encoder: Encoder) -> str:
    words = encoder.reads.words()
    return f" (range {words['range']} of the files)" if "range" in words else ""


def _input(encoder: Encoder) -> dict[str, Any]:
    """How the numbers of a file become the pixels that are normalised; empty where files have grey levels anyhow."""
    options = encoder.reads
    if not options.words():
        return {}
    ranges = options.fixed_range
    levels = None if ranges is None else "pixels = round(clip((x - low) / (high - low), 0, 1) * 255) / 255"
    about = {"channels": options.channels, "page": options.page, "z": options.z, "range": ranges, "levels": levels}
    return {name: value for name, value in about.items() if value is not None}


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


@torch.inference_mode()
def _difference(job: _Job, exported: ExportedModel) -> float:
    """Compare features or logits on batches of several sizes.

    Raises:
        UserError: they differ by more than the tolerance.
    """
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for size in (1, 3):
        images = torch.randn(size, *_example(job.encoder).shape[1:], generator=generator)
        expected = job.module(images)
        worst = max(worst, float((exported(images) - expected).abs().max() / expected.abs().max()))
    if not worst <= TOLERANCE:
        raise UserError(
            f"The exported encoder gives other {job.output} (difference {worst:.1e}).", "Nothing was written."
        )
    return worst


def _write_timm(job: _Job, out: Path) -> ExportedModel:
    """A directory for `timm.create_model("local-dir:…", pretrained=True)`."""
    _refuse_conv_stem(job.encoder, "timm")
    save_encoder(job.encoder, out, {"exported_from": job.about["exported_from"]})
    model: ExportedModel = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()
    return model


def _refuse_conv_stem(encoder: Encoder, whose: str) -> None:
    if isinstance(encoder.vit.patch_embed, ConvStem):
        raise UserError(
            f"{whose} has no ViT with a convolutional stem.",
            "Such an encoder loads through layergraft.load_encoder alone, or exports to onnx and torch_export.",
        )


def _write_hf(job: _Job, out: Path) -> ExportedModel:
    """A directory for `transformers.ViTModel.from_pretrained`, with its image processor."""
    encoder, vit = job.encoder, job.encoder.vit
    _refuse_conv_stem(encoder, "Hugging Face's ViTModel")
    weights = {key: value.detach().cpu().contiguous() for key, value in vit.state_dict().items()}
    if rotary_positions(vit) is not None or "pos_embed" not in weights:
        raise UserError("Hugging Face's ViTModel has added positions alone, this encoder others.", "Use timm or onnx.")
    prefix = weights["pos_embed"].shape[1] - encoder.num_patches
    if prefix == 0 and vit.cls_token is not None:  # no position is a position of zeros
        row = torch.zeros(1, 1, encoder.embed_dim)
        weights["pos_embed"] = torch.cat([row, weights["pos_embed"]], dim=1)
    renamed = from_timm(weights)
    inexpressible = [key for key in renamed if key in weights]
    inexpressible += [key for key in renamed if ".attn." in key or ".ls" in key or ".mlp." in key]
    activations = {type(block.mlp.act) for block in vit.blocks}
    reasons = []
    if inexpressible:
        reasons.append(f"it has no place for {', '.join(inexpressible[:4])}")
    if not encoder.feature_is_token:
        reasons.append("its feature is the class token, here it is the mean of the patches")
    if activations != {nn.GELU} or vit.blocks[0].mlp.act.approximate != "none":
        reasons.append("another activation")
    if reasons:
        raise UserError(
            f"Hugging Face's ViTModel cannot express this encoder: {'; '.join(reasons)}.", "Use timm or onnx."
        )
    config = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": num_heads(encoder),
        "intermediate_size": vit.blocks[0].mlp.fc1.out_features,
        "hidden_act": "gelu",
        "layer_norm_eps": norm_eps(encoder),
        "image_size": encoder.img_size,  # transformers takes two numbers too
        "patch_size": encoder.patch_size,
        "num_channels": encoder.in_chans,
        "qkv_bias": vit.blocks[0].attn.qkv.bias is not None,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "exported_from": job.about["exported_from"],
    } | _input(encoder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": encoder.input_size[0], "width": encoder.input_size[1]},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(encoder.mean),
        "image_std": list(encoder.std),
    }
    write_bytes(out / "model.safetensors", save(renamed, metadata={"format": "pt"}))
    write_text(out / "preprocessor_config.json", json.dumps(processor, indent=2) + "\n")
    write_text(out / "config.json", json.dumps(config, indent=2) + "\n")
    if importlib.util.find_spec("transformers") is None:
        announce("transformers is not installed: the directory was read back by layergraft alone.")
        return load_encoder(out)
    from transformers import ViTModel

    model = ViTModel.from_pretrained(out, add_pooling_layer=False).eval()
    return lambda images: model(images).last_hidden_state[:, 0]


def _write_onnx(job: _Job, out: Path) -> ExportedModel:
    """One file with a dynamic batch: input `images`, output `features` or `logits`; metadata as `_Job.about`."""
    write_onnx(job.module, _example(job.encoder), out, job.output, job.about)
    return open_onnx(out)


def _write_torch_export(job: _Job, out: Path) -> ExportedModel:
    """A `.pt2` for `torch.export.load` with a dynamic batch; mean, std and classes are in its `layergraft.json`."""
    program = torch.export.export(
        job.module, (_example(job.encoder),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"layergraft.json": json.dumps(job.about)})
    write_bytes(out, buffer.getvalue())
    model: ExportedModel = torch.export.load(str(out)).module()
    return model


def _example(encoder: Encoder) -> Tensor:
    return torch.zeros(2, encoder.in_chans, *encoder.input_size)
