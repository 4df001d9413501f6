"""Exports are read back by the programs they are for, and give the features of timm or torch to 1e-4."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import FIXTURES, TINY
from safetensors.torch import load_file

import layergraft
from layergraft.commands import export as export_module
from layergraft.commands.cli import main
from layergraft.config import EncoderConfig
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.evaluation.probes import Probe, save_probe

MOCO = f"{FIXTURES / 'mocov3_tiny' / 'checkpoint.pth.tar'}?num_heads=4"
SMALL = {"name": "vit_small_patch16_224", "img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}
ONNX = ("onnx", "onnxscript", "onnxruntime")


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package)


def native(path: Path, **changes: Any) -> Path:
    """An encoder directory with random weights, nothing of them zero."""
    config = EncoderConfig(**(SMALL | {"positions": "random"} | changes))
    encoder = create_encoder(config, 0, (0.4,) * config.in_chans, (0.3,) * config.in_chans)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        for buffer in encoder.buffers():
            buffer.add_(1)
    save_encoder(encoder, path, {})
    return path


def images(encoder: Encoder, count: int) -> torch.Tensor:
    shape = (count, encoder.in_chans, encoder.img_size, encoder.img_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def close(theirs: Any, ours: torch.Tensor) -> None:
    difference = np.abs(np.asarray(theirs) - ours.numpy()).max()
    assert difference <= 1e-4 * float(ours.abs().max()), difference


def read_back(format_name: str, out: Path) -> tuple[Any, dict[str, Any]]:
    """The exported encoder as a function, loaded with nothing of ours, and what stands beside its weights."""
    if format_name == "timm":
        model = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()
        return model, {key: list(model.pretrained_cfg[key]) for key in ("mean", "std")}
    if format_name == "hf":
        from transformers import ViTModel

        model = ViTModel.from_pretrained(out).eval()
        processor = json.loads((out / "preprocessor_config.json").read_text())
        statistics = {"mean": processor["image_mean"], "std": processor["image_std"]}
        return lambda x: model(x).last_hidden_state[:, 0], statistics
    if format_name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        statistics = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
        return lambda x: session.run(None, {"images": x.numpy()})[0], statistics
    extra = {"layergraft.json": ""}
    program = torch.export.load(str(out), extra_files=extra)
    return program.module(), json.loads(extra["layergraft.json"])


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no class token, 5 channels": {"class_token": False, "in_chans": 5},
    "registers and layer scale": {"reg_tokens": 2, "init_values": 0.1},
    "conv stem": {"stem": "conv", "patch_size": 16},
    "positions of patches alone": {"name": "vit_small_patch14_reg4_dinov2"},
}


@pytest.mark.parametrize(
    ("format_name", "kind"),
    [
        *(("timm", kind) for kind in KINDS),
        *((name, kind) for name in ("torch_export", "onnx") for kind in list(KINDS)[1:4]),
        ("hf", "plain"),
    ],
)
@torch.no_grad()
def test_exports_give_the_same_features(
    format_name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs(*{"onnx": ONNX, "hf": ("transformers",)}.get(format_name, ()))
    source, out = native(tmp_path / "native", **KINDS[kind]), tmp_path / "new" / "exported"
    code = main(["export", "--encoder", str(source), "--format", format_name, "--out", str(out)])
    if format_name == "timm" and kind == "conv stem":
        assert code == 2
        assert "layergraft.load_encoder alone" in capsys.readouterr().err
        assert not list(tmp_path.glob("new/*"))
        return
    assert code == 0
    assert "mean 0.4" in capsys.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["exported"], "no other file is left"
    encoder, (run, statistics) = layergraft.load_encoder(source), read_back(format_name, out)
    assert statistics["mean"] == pytest.approx([0.4] * encoder.in_chans)
    assert statistics["std"] == pytest.approx([0.3] * encoder.in_chans)
    for count in (1, 2, 5):
        close(run(images(encoder, count)), encoder(images(encoder, count)))


@pytest.mark.parametrize("format_name", ["timm", "hf"])
@torch.no_grad()
def test_a_foreign_file_goes_everywhere(format_name: str, tmp_path: Path) -> None:
    needs(*(("transformers",) if format_name == "hf" else ()))
    done = layergraft.export(encoder=MOCO, format=format_name, out=tmp_path / "out")  # type: ignore[arg-type]
    assert done.difference <= 1e-4
    encoder = layergraft.load_encoder(MOCO)
    close(read_back(format_name, done.out)[0](images(encoder, 3)), encoder(images(encoder, 3)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reg_tokens": 2}, "reg_token"),
        ({"init_values": 0.1}, "ls1.gamma"),
        ({"class_token": False}, "mean of the patches"),
        ({"stem": "conv", "patch_size": 16}, "convolutional stem"),
        ({"name": "vit_base_patch32_clip_quickgelu_224"}, "norm_pre"),
    ],
)
def test_what_hugging_face_cannot_express_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    source, out = native(tmp_path / "native", **changes), tmp_path / "out"
    with pytest.raises(UserError, match=reason):
        layergraft.export(encoder=source, format="hf", out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["native"]


def test_nothing_is_overwritten_and_nothing_wrong_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = native(tmp_path / "native"), tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        layergraft.export(encoder=source, format="timm", out=out)
    assert out.read_text() == "mine"
    out.unlink()

    def scaled(job: Any, path: Path) -> Any:
        path.mkdir()
        return lambda x: job.encoder(x) * 1.001

    monkeypatch.setattr(export_module, "_write_timm", scaled)
    with pytest.raises(UserError, match="other features"):
        layergraft.export(encoder=source, format="timm", out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["native"]


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnxscript[\s\S]*layergraft\[onnx\]"):
        layergraft.export(encoder=native(tmp_path / "native"), format="onnx", out=tmp_path / "out")


def fitted(path: Path, width: int, pooling: str = "cls") -> Path:
    """A classifier as `evaluate` leaves it in RUN/probes/."""
    generator = torch.Generator().manual_seed(5)
    described = {
        "encoder": "graft",
        "source": "images",
        "protocol": "ridge",
        "variant": "cv",
        "shots": "5",
        "split": "0",
    }
    weight, bias = torch.randn(3, width, generator=generator), torch.randn(3, generator=generator)
    return save_probe(Probe(weight=weight, bias=bias, classes=["a", "b", "c"], pooling=pooling, **described), path)


@pytest.mark.parametrize("format_name", ["onnx", "torch_export"])
@torch.no_grad()
def test_with_a_fitted_head(format_name: str, tmp_path: Path) -> None:
    needs(*(ONNX if format_name == "onnx" else ()))
    source, probe = native(tmp_path / "native"), fitted(tmp_path / "probes", 48)
    out = tmp_path / "classifier"
    layergraft.export(encoder=source, format=format_name, out=out, with_head=probe)  # type: ignore[arg-type]
    vit = timm.create_model(f"local-dir:{source}", pretrained=True).eval()
    x = images(layergraft.load_encoder(source), 4)
    features = vit(x).double().numpy()
    features = features - features.mean(axis=1, keepdims=True)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    head = load_file(probe)
    logits = features @ head["weight"].double().numpy().T + head["bias"].double().numpy()
    run, about = read_back(format_name, out)
    close(run(x), torch.from_numpy(logits))
    assert about["classes"] == ["a", "b", "c"]


def test_a_head_on_the_last_four_of_two_blocks(tmp_path: Path) -> None:
    source, probe = native(tmp_path / "native"), fitted(tmp_path / "probes", 2 * 48, "last4")
    done = layergraft.export(encoder=source, format="torch_export", out=tmp_path / "out", with_head=probe)
    assert done.difference <= 1e-4


@pytest.mark.parametrize(
    ("format_name", "width", "message"), [("timm", 48, "onnx"), ("hf", 48, "onnx"), ("onnx", 32, "32 numbers")]
)
def test_heads_that_do_not_fit(format_name: str, width: int, message: str, tmp_path: Path) -> None:
    source, probe = native(tmp_path / "native"), fitted(tmp_path / "probes", width)
    with pytest.raises(UserError, match=message):
        layergraft.export(encoder=source, format=format_name, out=tmp_path / "out", with_head=probe)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_onnx_runs_on_raw_arrays_by_its_metadata_alone(tmp_path: Path) -> None:
    """Trained on 16-bit ImageJ files of five channels through a range: features of the arrays equal `embed`'s."""
    needs(*ONNX, "tifffile")
    import onnxruntime
    import pyarrow.parquet
    import tifffile

    random = np.random.default_rng(0)
    cells = tmp_path / "cells"
    cells.mkdir()
    arrays = random.integers(0, 4096, (40, 5, 36, 36)).astype(np.uint16)
    for index, array in enumerate(arrays):
        tifffile.imwrite(cells / f"{index:02d}.tif", array, imagej=True, metadata={"axes": "CYX", "mode": "composite"})
    source = f"{cells}?range=100,4000;0,4095;0,3000;50,2000;0,4095"
    changes = TINY | {"encoder.in_chans": 5, "data.source": source, "data.holdout": 4, "stages.mae.steps": 2}
    changes |= {"stages.graft.steps": 2, "stages.mae.batch_size": 16, "stages.graft.batch_size": 16, "evaluate": None}
    changes |= {"stages.mae.epochs": None, "stages.graft.epochs": None, "analyze": [], "monitor.every": 0}
    run = layergraft.train(recipe="fashion_paper", out=tmp_path / "run", overrides=changes)
    layergraft.export(encoder=str(run.out), format="onnx", out=tmp_path / "encoder.onnx")
    layergraft.embed(encoder=str(run.out), data=str(cells), out=tmp_path / "features.parquet")
    ours = np.array(pyarrow.parquet.read_table(tmp_path / "features.parquet")["feature"].to_pylist())

    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"), providers=["CPUExecutionProvider"])
    about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert about["levels"] == "pixels = round(clip((x - low) / (high - low), 0, 1) * 255) / 255"
    low, high = (np.array(ends)[:, None, None] for ends in zip(*about["range"], strict=True))
    pixels = np.round(np.clip((arrays - low) / (high - low), 0, 1) * 255) / 255
    mean, std = (np.array(about[name])[:, None, None] for name in ("mean", "std"))
    (features,) = session.run(["features"], {"images": ((pixels - mean) / std).astype(np.float32)})
    assert np.abs(features - ours).max() < 1e-4 * np.abs(ours).max()
