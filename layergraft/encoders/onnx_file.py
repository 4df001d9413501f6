"""An ONNX file of a network on images, with a batch of any size."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layergraft.errors import UserError

_LARGEST_PROTOBUF = 1.9e9  # bytes; larger weights go into a file beside the .onnx


def missing_for_onnx() -> list[str]:
    """The packages of the extra `onnx` that are not installed."""
    packages = ("onnx", "onnxscript", "onnxruntime")
    return [package for package in packages if importlib.util.find_spec(package) is None]


def write_onnx(module: nn.Module, example: Tensor, path: Path, output: str, about: Mapping[str, Any]) -> None:
    """Write a file with the input `images` and one output.

    Args:
        module: images of shape (N, C, H, W) to a tensor of shape (N, ...).
        example: two images or more.
        path: of the file.
        output: its output's name.
        about: what goes into its metadata.

    Raises:
        UserError: the extra `onnx` is not installed.
    """
    if missing := missing_for_onnx():
        raise UserError(f"ONNX needs {', '.join(missing)}.", "pip install 'layergraft[onnx]'")
    program: Any = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        output_names=[output],
        verbose=False,
    )
    program.model.metadata_props.update({key: json.dumps(value) for key, value in about.items()})
    size = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    program.save(str(path), external_data=size > _LARGEST_PROTOBUF)


def open_onnx(path: Path, threads: int | None = None) -> Callable[[Tensor], Tensor]:
    """Open a file of `write_onnx`: images (N, C, H, W) -> its output, on the CPU by onnxruntime.

    Args:
        path: of the file.
        threads: how many it computes with; None is onnxruntime's choice.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
