"""Encoders, foreign checkpoints and fitted classifiers with anything in them: no command ends with a bug."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import two_classes
from fuzzing import JSON_WORDS, WEIRD_WORDS, bug, damage, distinct, fresh_copy, mutate
from safetensors.torch import load_file, save_file

from layergraft.config import EncoderConfig
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import create_encoder
from layergraft.evaluation.probes import Probe, save_probe

SEEDS = range(7300, 7320)
PER_SEED = 200
OPTIONS = ["encoder", "num_heads", "img_size", "norm_eps", "mean", "std", "x", ""]
VALUES = ["momentum", "base", "2", "3", "16", "32", "1e-5", "0.5", "0.5,0.5,0.5", "0.1,0.2", "target", "student"]
ODD_ENCODERS = [
    "",
    "timm:",
    "timm:x",
    "timm:resnet18",
    "?",
    "?num_heads=2",
    "\0",
    "/dev/null",
    ".",
    "builtin:fashion",
    "~",
]
MOCO = {"q": "module.base_encoder.", "k": "module.momentum_encoder."}


def make_encoders(root: Path) -> dict[str, str]:
    """Kind -> name, below the folder, of what a user gives."""
    config = EncoderConfig(img_size=16, patch_size=8, in_chans=3, embed_dim=48, depth=2, num_heads=3)
    encoder = create_encoder(config, 0)
    save_encoder(encoder, root / "native" / "e", {"recipe": "x", "stage": "mae"})
    weights = load_file(root / "native" / "e" / "model.safetensors")
    for kind in ("bare", "moco", "pickle", "parts"):
        (root / kind).mkdir()
    save_file(weights, root / "bare" / "e.safetensors")
    both = {prefix + name: value for prefix in MOCO.values() for name, value in weights.items()}
    torch.save({"epoch": 3, "arch": "vit_small", "state_dict": both, "args": {"lr": 0.1}}, root / "moco" / "e.pth.tar")
    torch.save({"model": weights, "epoch": 1}, root / "pickle" / "e.pt")
    shutil.copytree(root / "native" / "e", root / "parts" / "e")
    (root / "parts" / "e" / "model.safetensors").unlink()
    halves: dict[str, dict[str, torch.Tensor]] = {"one.safetensors": {}, "two.safetensors": {}}
    for number, (name, value) in enumerate(weights.items()):
        halves[list(halves)[number % 2]][name] = value
    for name, half in halves.items():
        save_file(half, root / "parts" / "e" / name)
    index = {"weight_map": {name: part for part, half in halves.items() for name in half}}
    (root / "parts" / "e" / "model.safetensors.index.json").write_text(json.dumps(index))
    _hugging_face(root / "hf" / "e")
    described: dict[str, Any] = {"encoder": "mae", "source": "x", "protocol": "logistic", "variant": None}
    probe = Probe(
        weight=torch.ones(2, 48),
        bias=torch.zeros(2),
        classes=["a", "b"],
        pooling="cls",
        shots="5",
        split="0",
        **described,
    )
    save_probe(probe, root / "native" / "probes")
    return {"native": "e", "bare": "e.safetensors", "moco": "e.pth.tar", "pickle": "e.pt", "parts": "e", "hf": "e"}


def _hugging_face(folder: Path) -> None:
    """A ViT as transformers saves it, which need not be installed."""
    width, config = 48, {"model_type": "vit", "architectures": ["ViTModel"], "hidden_size": 48, "image_size": 16}
    config |= {"patch_size": 8, "num_attention_heads": 3, "num_hidden_layers": 1, "intermediate_size": 192}
    config |= {"num_channels": 3, "qkv_bias": True, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
    weights = {"embeddings.cls_token": torch.zeros(1, 1, width)}
    weights |= {"embeddings.position_embeddings": torch.zeros(1, 5, width)}
    layer = "encoder.layer.0."
    shapes = {f"{layer}attention.attention.{part}": (width, width) for part in ("query", "key", "value")}
    shapes |= {f"{layer}attention.output.dense": (width, width), f"{layer}intermediate.dense": (192, width)}
    shapes |= {f"{layer}output.dense": (width, 192)}
    for name, shape in shapes.items():
        weights |= {f"{name}.weight": torch.ones(*shape), f"{name}.bias": torch.zeros(shape[0])}
    for name in (f"{layer}layernorm_before", f"{layer}layernorm_after", "layernorm"):
        weights |= {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
    patch = "embeddings.patch_embeddings.projection"
    weights |= {f"{patch}.weight": torch.ones(width, 3, 8, 8), f"{patch}.bias": torch.zeros(width)}
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"do_normalize": True, "size": 16}))


def change_header(path: Path, rng: random.Random) -> None:
    """Mutate the JSON of a safetensors file, and keep its length right."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = mutate(content[8 : 8 + size], rng)
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])


def change_weights(path: Path, rng: random.Random) -> None:
    """Drop, reshape, rename, retype, fill or add a tensor of a safetensors file or a pickle."""
    safe = path.suffix == ".safetensors"
    content: Any = load_file(path) if safe else torch.load(path, weights_only=True)
    inner = next((value for value in content.values() if isinstance(value, dict)), content) if not safe else content
    name = rng.choice(list(inner))
    tensor = inner[name]
    kind = rng.randrange(9 if safe else 12)
    if kind == 0:
        del inner[name]
    elif kind < 3 and isinstance(tensor, torch.Tensor):
        shapes = [
            tensor[..., :1],
            tensor.flatten(),
            tensor[None],
            tensor.new_zeros(0),
            tensor.new_zeros(()),
            tensor[:1],
        ]
        inner[name] = rng.choice([*shapes, torch.cat([tensor, tensor])]).contiguous()
    elif kind == 3:
        inner[rng.choice(["x", "", "head.weight", name + ".x", "fc_norm.weight", "blocks.7.norm1.weight"])] = inner.pop(
            name
        )
    elif kind == 4 and isinstance(tensor, torch.Tensor):
        inner[name] = tensor.to(rng.choice([torch.int8, torch.float64, torch.bfloat16, torch.bool, torch.float16]))
    elif kind == 5 and isinstance(tensor, torch.Tensor):
        inner[name] = torch.full_like(tensor, rng.choice([float("nan"), float("inf"), 1e30, 0.0]))
    elif kind == 6:
        for other in [other for other in inner if "blocks.1" in other or "layer.0" in other]:
            del inner[other]
    elif kind == 7:
        inner.clear()
    elif kind == 8:
        inner[rng.choice(["head.weight", "cls_token", "norm.bias", "reg_token"])] = torch.ones(rng.choice([1, 48, 7]))
    elif kind == 9:
        inner[rng.choice([name, 3, "x", None, ("a", 1)])] = rng.choice([None, 3, "x", [], [torch.ones(2)], {}, 1j])
    elif kind == 10:
        content["x"] = content
    else:
        content = rng.choice([[], tensor, {}, {"state_dict": []}, {"state_dict": {}}, {"model": None}, 3, {1: tensor}])
    save_file(content, path) if safe else torch.save(content, path)


def change_json(path: Path, rng: random.Random) -> None:
    """Put something else in place of a value of a JSON object, or drop it."""
    tree = json.loads(path.read_text())
    inner = rng.choice([tree, *(value for value in tree.values() if isinstance(value, dict) and value)])
    key = rng.choice(list(inner))
    if rng.random() < 0.2:
        del inner[key]
    else:
        inner[key] = rng.choice(
            [*map(json.loads, JSON_WORDS[2:]), None, -1, 3, 5, 1.5, [0.5], [1, 2, 3], "x", 10**12, [None]]
        )
    path.write_text(json.dumps(tree))


def change(place: Path, rng: random.Random) -> str:
    """Change a file of an encoder in one of these ways."""
    kind = rng.random()
    weights = sorted(path for path in place.rglob("*") if path.suffix in (".safetensors", ".tar", ".pt"))
    texts = sorted(path for path in place.rglob("*.json"))
    if kind < 0.3:
        path = rng.choice(weights)
        change_weights(path, rng)
    elif kind < 0.45 and any(path.suffix == ".safetensors" for path in weights):
        path = rng.choice([path for path in weights if path.suffix == ".safetensors"])
        change_header(path, rng)
    elif kind < 0.75 and texts:
        path = rng.choice(texts)
        change_json(path, rng)
    else:
        return damage(place, rng)
    return str(path.relative_to(place))


def command_on(encoder: str, place: Path, images: Path, out: Path, rng: random.Random) -> list[str]:
    """A command that takes an encoder."""
    probe = next(iter((place / "probes").glob("*")), place / "none")
    known = ["--encoder", encoder, "--data", str(images)]
    export = ["export", "--encoder", encoder, "--out", str(out / "x"), "--format"]
    commands = [
        ["inspect", encoder],
        ["inspect", encoder, "--json", "true"],
        ["inspect", str(probe)],
        [*export, "timm"],
    ]
    commands += [["embed", *known, "--out", str(out / "f.parquet"), *rng.choice([[], ["--pooling", "last4"]])]]
    commands += [[*export, "onnx", "--with-head", str(probe)]] if rng.random() < 0.3 else []
    commands += [
        ["evaluate", *known, "--test", "holdout", "--protocols", "knn", "--out", str(out / "run")],
        [*export, "hf"],
    ]
    commands += [["analyze", *known, "--what", "rank", "--out", str(out / "run")]]
    commands += [["plan", "--recipe", "fashion_paper", "--data", str(images), "--start", encoder]]
    return rng.choice([*commands, *commands[:3], *commands[4:5]])


def fuzz(root: Path, seed: int, count: int) -> dict[str, str]:
    """Bug -> the file and command that met it."""
    kinds, images = make_encoders(root / "encoders"), two_classes(root / "images", 12)

    def tries() -> Iterator[tuple[str, str]]:
        for number in range(count):
            rng = random.Random(1_000_000 * seed + number)
            kind = rng.choice(sorted(kinds))
            place = fresh_copy(root / "encoders" / kind, root / "work" / "place")
            changed = [change(place, rng) for _ in range(rng.choice([0, 1, 1, 1]))]
            encoder = str(place / kinds[kind])
            if rng.random() < 0.2:
                pairs = [(rng.choice(OPTIONS), rng.choice(VALUES + WEIRD_WORDS)) for _ in range(rng.choice([1, 2]))]
                encoder += "?" + "&".join(f"{key}={value}" for key, value in pairs)
            encoder = rng.choice(ODD_ENCODERS) if rng.random() < 0.03 else encoder
            out = root / "work" / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            words = command_on(encoder, place, images, out, rng)
            yield bug(words), f"try {number} of seed {seed}: {kind}, {changed}: {words}"

    return distinct(tries())


def test_a_sample_of_encoders(tmp_path: Path) -> None:
    assert fuzz(tmp_path, 7000, 12) == {}


@pytest.mark.soak
@pytest.mark.parametrize("seed", SEEDS)
def test_encoders(tmp_path: Path, seed: int) -> None:
    assert fuzz(tmp_path, seed, PER_SEED) == {}
