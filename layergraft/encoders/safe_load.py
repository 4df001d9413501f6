"""Read a file of weights without running code from it."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from layergraft.config.paths import check_regular, open_regular
from layergraft.errors import UserError
from layergraft.runs.json_files import parse_json_as, read_json
from layergraft.runs.layout import PARTS, WEIGHTS

T = TypeVar("T")
Weights = dict[str, Tensor]
"""Tensors by their names, as a file holds them."""
# Besides tensors, training checkpoints hold their arguments and numbers of NumPy. Building these runs no code.
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(getattr(np.dtypes, name) for name in ("Float64DType", "Float32DType", "Int64DType", "BoolDType")),
    *(
        (type(np.float64(0)).__reduce__(np.float64(0))[0], f"numpy.{core}.multiarray.scalar")
        for core in ("core", "_core")
    ),
]


_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_file(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file: of torch, `.safetensors`, or NumPy's `.npz`.

    Raises:
        UserError: damaged, of another kind, or a pickle that wants to run code; nothing of it has run.
    """
    _refuse_hdf5(path)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        if path.suffix == ".npz":
            return _read_npz(path)
        damaged = zipfile.ZipFile(path).testzip() if zipfile.is_zipfile(path) else None  # torch does not check sums
        if damaged is not None:
            raise UserError(
                f"{str(path)!r} is damaged: the checksum of {damaged!r} in it is wrong.", "Copy or download it again."
            )
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # what torch, zipfile and safetensors raise on arbitrary bytes has no common type
        text = str(error)
        if "weights_only" in text or "Unsupported" in text:
            named = text.partition("GLOBAL ")[2].split(" ")[0]
            raise UserError(
                f"{str(path)!r} is a pickle that wants to run code{f' ({named})' if named else ''}; it was not run.",
                "Load it where you trust it and save its state_dict alone, best as .safetensors.",
            ) from None
        reason = text.splitlines()[0].rstrip(".") if text else type(error).__name__
        raise UserError(
            f"{str(path)!r} is no checkpoint that can be read: {reason}.",
            "It may be truncated or damaged: compare its size with the original.",
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} holds a {type(content).__name__}, not named weights.")
    try:
        unusual = _unusual(content)
    except RecursionError:
        raise UserError(f"{str(path)!r} holds dicts in dicts without end.", "Save its state_dict alone.") from None
    if unusual:
        raise UserError(
            f"{str(path)!r} holds tensors that are sparse, quantised or without numbers: {', '.join(unusual[:4])}.",
            "Save them as ordinary ones (`to_dense()`, `dequantize()`).",
        )
    return content


def _refuse_hdf5(path: Path) -> None:
    """Refuse what Keras writes by its true name."""
    try:
        with open_regular(path) as file:
            start = file.read(len(_HDF5))
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    if start == _HDF5:
        raise UserError(
            f"{str(path)!r} is an HDF5 file, as Keras writes; weights are not read from such.",
            "Convert them where they come from, best to .safetensors with timm's names.",
        )


def _read_npz(path: Path) -> Weights:
    """The arrays of an archive of NumPy; a type of two bytes that it does not know is bfloat16."""
    weights: Weights = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            array = np.asarray(archive[name])
            if array.dtype.kind == "V" and array.dtype.itemsize == 2:
                weights[name] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
            elif array.dtype.kind in "fiub":
                weights[name] = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    return weights


def read_noted(path: Path, key: str, kind: type[T], hint: str) -> tuple[dict[str, Tensor], T]:
    """The tensors of a safetensors file, and the JSON that its metadata hold under a key.

    Args:
        path: the file.
        key: of the metadata.
        kind: what the JSON is, as in `read_json_as`.
        hint: what to do where the file is something else.

    Raises:
        UserError: it is damaged, or holds something else.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            note = (file.metadata() or {}).get(key)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise UserError(f"{str(path)!r} cannot be read: {error}.", hint) from None
    if note is None:
        raise UserError(f"{str(path)!r} has no {key!r} in its metadata.", hint)
    return tensors, parse_json_as(note, path, kind, hint)


def _unusual(content: Mapping[Any, Any]) -> list[str]:
    """Names of tensors that do not hold one number after the other, also in dicts in the dict."""
    names: list[str] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            names += [f"{key}.{name}" for name in _unusual(value)]
        elif isinstance(value, Tensor) and (value.layout != torch.strided or value.is_quantized or value.is_meta):
            names.append(str(key))
    return names


def read_directory(path: Path) -> dict[str, Tensor]:
    """The weights of a directory: `model.safetensors`, its numbered parts, or `pytorch_model.bin`.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    index = path / PARTS
    if index.is_file():
        try:
            parts = sorted({str(part) for part in read_json(index)["weight_map"].values()})
        except (KeyError, AttributeError):
            raise UserError(f"{str(index)!r} has no weight_map from tensors to files.") from None
        return {name: tensor for part in parts for name, tensor in read_file(path / part).items()}
    for name in WEIGHTS:
        if (path / name).is_file():
            return read_file(path / name)
    raise UserError(f"{str(path)!r} holds no weights.", "They are expected in model.safetensors.")
