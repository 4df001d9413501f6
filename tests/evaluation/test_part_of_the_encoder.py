"""Features of an inner block, and of a random part of the patches: what they are, and that rows never mix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import layergraft
from layergraft.config import EncoderConfig
from layergraft.config.loading import load_evaluate
from layergraft.config.supervised import ClassifyConfig
from layergraft.data.batch import Normalize
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import save_encoder
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.evaluation.features import PatchDraw, extract_all, view_batches
from layergraft.evaluation.probes import load_probe
from layergraft.objectives.classify import Classify
from layergraft.runs.results import SUMMARIES

SMALL = EncoderConfig(
    name="vit_tiny_patch16_224", img_size=36, in_chans=1, patch_size=9, embed_dim=32, depth=3, num_heads=2
)
DATA, TEST = "builtin:fashion-canvas?fraction=0.005", "builtin:fashion-canvas:test?fraction=0.02"
DRAW = PatchDraw(share=0.25, seed=0, part="train", number=0)


def without_upper_blocks(encoder: Encoder, count: int) -> Encoder:
    """The encoder as it would be with so many blocks."""
    shorter = create_encoder(EncoderConfig(**{**encoder_arguments(), "depth": count}), 0)
    weights = encoder.vit.state_dict()
    shorter.vit.load_state_dict({name: weights[name] for name in shorter.vit.state_dict()})
    return shorter


def encoder_arguments() -> dict[str, object]:
    return {name: getattr(SMALL, name) for name in SMALL.__struct_fields__}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    save_encoder(create_encoder(SMALL, 0), path, {})
    return path


def test_a_draw_belongs_to_the_image() -> None:
    keys = np.arange(40)
    kept = DRAW.kept(keys, 16)
    assert kept.shape == (40, 4)
    assert all(len(set(row)) == 4 for row in kept.tolist())
    assert torch.equal(DRAW.kept(keys[7:9], 16), kept[7:9])
    counts = torch.bincount(kept.flatten(), minlength=16)
    assert counts.min() > 0  # every patch is seen in some image
    for other in (
        PatchDraw(share=0.25, seed=1, part="train", number=0),
        PatchDraw(share=0.25, seed=0, part="test", number=0),
        PatchDraw(share=0.25, seed=0, part="train", number=1),
    ):
        assert not torch.equal(other.kept(keys, 16), kept)
    assert PatchDraw(share=0.01, seed=0, part="train", number=0).kept(keys, 16).shape == (40, 1)


def test_features_of_kept_patches_are_those_of_an_encoder_that_gets_no_others() -> None:
    encoder = create_encoder(SMALL, 0).eval()
    source = open_source("builtin:fashion-canvas?fraction=0.002")
    found = extract_all(encoder, source, ["cls", "mean"], patches=DRAW)
    kept = DRAW.kept(source.keys, encoder.num_patches)
    images = Normalize(mean=encoder.mean, std=encoder.std)(next(view_batches(source, 36, 1)))
    with torch.inference_mode():
        whole = encoder.tokens(images)
        rows = torch.cat([torch.zeros(len(kept), 1, dtype=torch.int64), kept + 1], dim=1)  # the class token first
        tokens = whole.gather(1, rows[:, :, None].expand(-1, -1, 32))
        for block in encoder.vit.blocks:
            tokens = block(tokens)
        tokens = encoder.vit.norm(tokens)
    assert np.allclose(found["cls"], tokens[:, 0], atol=1e-5)
    assert np.allclose(found["mean"], tokens[:, 1:].mean(1), atol=1e-5)


def test_rows_of_a_part_never_mix_with_those_of_the_whole(saved: Path, tmp_path: Path) -> None:
    """In the same results.json; drawn again they are the same."""
    file = tmp_path / "results.json"

    def measure(keep: float | None = None, block: int | None = None) -> list[dict[str, object]]:
        layergraft.evaluate(
            encoder=saved, data=DATA, test=TEST, shots=["2"], splits=2, keep=keep, block=block, out=tmp_path
        )
        rows: list[dict[str, object]] = json.loads(file.read_text())
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    whole = [row for row in measure() if row["encoder"] != "pixels"]
    probes = set((tmp_path / "probes").iterdir())
    rows = measure(keep=0.25)
    part = [row for row in rows if row["pooling"] == "cls/keep0.25"]
    for protocol, shots in (("knn", "100%"), ("logistic", "2")):
        of_protocol = [row for row in part if (row["protocol"], row["shots"]) == (protocol, shots)]
        assert [row["split"] for row in of_protocol] == ["0", "1", "2", "3", "4", "mean", "std"]
        values = [row["value"] for row in of_protocol[:5]]
        assert of_protocol[5]["value"] == pytest.approx(np.mean(values))
        assert of_protocol[6]["value"] == pytest.approx(np.std(values, ddof=1))
        assert len(set(values)) > 1  # draws differ
        assert [row["chosen"]["draw"] for row in of_protocol[:5]] == [0, 1, 2, 3, 4]  # type: ignore[index]
    assert [row for row in rows if row["pooling"] == "cls"] == whole
    assert set((tmp_path / "probes").iterdir()) == probes  # a classifier of a part of the patches is none to keep
    assert measure(keep=0.25) == rows

    rows = measure(block=1)
    inner = [row for row in rows if row["pooling"] == "cls/block1"]
    assert [row for row in rows if row["pooling"] == "cls"] == whole
    assert {row["split"] for row in inner} == {"0", "1", *SUMMARIES}
    shorter = tmp_path / "shorter"
    save_encoder(without_upper_blocks(create_encoder(SMALL, 0), 2), shorter, {})
    results = layergraft.evaluate(encoder=shorter, data=DATA, test=TEST, shots=["2"], splits=2, out=tmp_path / "other")
    expected = [row.value for row in results if row.encoder != "pixels"]
    assert [row["value"] for row in inner if row["split"] not in SUMMARIES] == pytest.approx(expected, abs=1e-6)
    (probe,) = (path for path in set((tmp_path / "probes").iterdir()) - probes)
    assert (load_probe(probe).pooling, load_probe(probe).block) == ("cls", 1)


def test_a_linear_probe_of_an_inner_block() -> None:
    """It sees the block's feature, and the blocks above are no part of it."""
    config, _ = load_evaluate({"protocols": ["linear", "knn"], "block": 1, "pooling": ["last4"]}, {})
    assert config.linear is not None
    objective = config.linear.objective
    assert isinstance(objective, ClassifyConfig)
    assert objective.block == 1
    encoder = create_encoder(SMALL, 0).eval()
    probe = Classify(ClassifyConfig(classes=3, block=1), encoder)
    assert probe.unused_layers(encoder) == ["blocks.2"]
    same = Classify(ClassifyConfig(classes=3), without_upper_blocks(encoder, 2))
    same.heads.load_state_dict(probe.heads.state_dict())
    images = torch.randn(2, 1, 36, 36, generator=torch.Generator().manual_seed(0))
    found = probe.predict(encoder, images)
    assert torch.allclose(found, same.predict(without_upper_blocks(encoder, 2).eval(), images), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 3}, "no block 3"),
        ({"block": 1, "protocols": ["finetune"]}, "finetune"),
        ({"keep": 0.25, "protocols": ["knn", "linear"]}, "not for linear"),
        ({"keep": 0.25, "pooling": ["auto"]}, "name a pooling"),
        ({"keep": 1.0}, "keep"),
        ({"keep": 0.0}, "keep"),
    ],
)
def test_what_is_refused(saved: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        layergraft.evaluate(encoder=saved, data=DATA, test=TEST, out=tmp_path, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "results.json").exists()
