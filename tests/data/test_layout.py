"""Folders as people point at them: data sets with parts, masks, boxes, tables and shards inside, and files left out."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from layergraft.commands.pack import pack
from layergraft.data.sources.layout import part_of
from layergraft.data.sources.open import default_test_source, open_source
from layergraft.errors import UserError

PICTURE = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
PNG = cv2.imencode(".png", PICTURE)[1].tobytes()


def write(root: Path, *names: str, content: bytes = PNG) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.mark.parametrize(
    ("parts", "advice"),
    [
        (("train", "val", "test"), "train, and --test {}/test"),
        (("test", "train", "valid"), "train, and --test {}/test"),  # Roboflow
        (("training", "validation"), "training, and --test {}/validation"),
        (("Train", "Test"), "Train, and --test {}/Test"),
        (("train2017", "val2017"), "train2017, and --test {}/val2017"),  # COCO
        (("train", "test", "unlabeled"), "train, and --test {}/test"),  # STL-10
        (("val", "testing"), "val, and --test {}/testing"),
    ],
)
@pytest.mark.parametrize("inside", ["", "archive/chest"])
def test_parts_of_a_data_set_are_no_classes(tmp_path: Path, parts: tuple[str, ...], advice: str, inside: str) -> None:
    where = tmp_path / inside
    for part in parts:
        write(where / part, "cat/1.png", "dog/2.png")
    with pytest.raises(UserError, match="no classes") as error:
        open_source(str(tmp_path))
    assert str(error.value).endswith(f"Give {where}/{advice.format(where)}.")
    write(where, "preview.png")  # beside them
    with pytest.raises(UserError, match="no classes"):
        open_source(str(tmp_path))
    assert open_source(str(where / parts[0])).classes == ["cat", "dog"]


def test_roots_for_detection_are_told_what_to_give(tmp_path: Path) -> None:
    yolo = write(tmp_path / "yolo", "images/train/1.png", "images/val/2.png")
    write(yolo, "data.yaml", "labels/train/1.txt", "labels/val/2.txt", content=b"0 .5 .5 .1 .1\n")
    with pytest.raises(UserError, match=rf"Give {yolo}/images/train, and --test {yolo}/images/val\."):
        open_source(str(yolo))
    roboflow = write(tmp_path / "roboflow", "train/images/1.jpg", "valid/images/1.jpg", "test/images/1.jpg")
    write(roboflow, "train/labels/1.txt", "data.yaml", content=b"")
    with pytest.raises(UserError, match=rf"Give {roboflow}/train, and --test {roboflow}/test\."):
        open_source(str(roboflow))
    voc = write(tmp_path / "voc", "JPEGImages/1.jpg", "SegmentationClass/1.png", "SegmentationObject/1.png")
    write(voc, "Annotations/1.xml", "ImageSets/Main/train.txt", content=b"")
    with pytest.raises(UserError, match=rf"Give {voc}/JPEGImages\."):
        open_source(str(voc))
    pets = write(tmp_path / "pets", "images/Abyssinian_1.jpg", "annotations/trimaps/Abyssinian_1.png")
    write(pets, "annotations/list.txt", "annotations/xmls/Abyssinian_1.xml", content=b"")
    with pytest.raises(UserError, match=rf"Give {pets}/images\."):
        open_source(str(pets))
    write(tmp_path / "masks", "images/1.png", "masks/1.png")
    with pytest.raises(UserError, match="what was drawn over them"):
        open_source(str(tmp_path / "masks"))


@pytest.mark.parametrize(
    ("kind", "image", "other"),
    [
        ("COCO", "images/1.jpg", "annotations/instances_default.json"),
        ("Pascal VOC", "images/1.jpg", "annotations/1.xml"),
        ("Pascal VOC", "JPEGImages/1.jpg", "Annotations/1.xml"),
        ("CVAT", "images/1.jpg", "annotations.xml"),
        ("YOLO", "images/1.jpg", "labels/1.txt"),
    ],
)
def test_boxes_are_no_masks(tmp_path: Path, kind: str, image: str, other: str) -> None:
    write(tmp_path, other, content=b"{}")
    write(tmp_path, image)
    source = open_source(str(tmp_path))
    assert ([source.images.name(key) for key in source.keys], source.masks, source.labels) == ([image], None, None)
    assert source.remarks == (f"{str(tmp_path)!r} looks like {kind}: what {other} says of the images is not read.",)


def test_a_part_of_images_beside_boxes_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "images/train/1.jpg", "images/val/1.jpg")
    write(tmp_path, "annotations/train/1.xml", "annotations/val/1.xml", content=b"<annotation/>")
    assert len(open_source(str(tmp_path / "images/train"))) == 1
    assert default_test_source(str(tmp_path / "images/train")) == str(tmp_path / "images/val")


def test_what_tests_a_part_is_found_beside_it(tmp_path: Path) -> None:
    for train, test in (("train", "val"), ("training", "testing"), ("train2017", "val2017"), ("train", "valid")):
        root = write(tmp_path / f"{train}-{test}", f"{train}/1.png", f"{test}/1.png")
        assert default_test_source(f"{root / train}?mean=0.5") == f"{root / test}?mean=0.5"
    assert default_test_source(str(tmp_path / "trainer")) is None


def test_names_of_parts() -> None:
    named = ["train", "Training", "train_2017", "train-images", "trainset", "valid", "val", "testing", "test2015"]
    assert [part_of(name) for name in named] == ["train"] * 5 + ["val"] * 2 + ["test"] * 2
    assert [part_of(name) for name in ("trains", "trainer", "testudo", "valley", "cat", "2017", "")] == [None] * 7


def test_folders_named_by_numbers_and_words_are_classes(tmp_path: Path) -> None:
    write(tmp_path, "2024/1.png", "007/1.png", "no/1.png", "train/1.png", "null/1.png")
    assert open_source(str(tmp_path)).classes == ["007", "2024", "no", "null", "train"]
    numbers = write(tmp_path / "numbers", "10/1.png", "007/1.png", "9/1.png")
    assert open_source(str(numbers)).classes == ["007", "9", "10"]


def test_files_left_out_are_counted_by_their_endings(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/1.png")
    write(tmp_path, "a/2.HEIC", "a/3.heic", "b/scan.svs", "b/IM000001", "b/x.mnc.gz", "a/._x.heic", content=b"")
    write(tmp_path, "a/notes.txt", "README", "a/1.json", "Thumbs.db", content=b"")
    line = f"{str(tmp_path)!r}: left out by their ending: 2 .heic, 1 .mnc.gz, 1 .svs, 1 without an ending."
    line += " Whole slides are cut into tiles: ?tile=256&mpp=0.5."
    for _ in range(2):  # made, and read from the file
        assert open_source(str(tmp_path), tmp_path / ".index").remarks == (line,)
    write(tmp_path / "none", "1.heic", content=b"")
    with pytest.raises(UserError, match=r"no image in the folder .* left out by their ending: 1 \.heic"):
        open_source(str(tmp_path / "none"))


@pytest.mark.parametrize("ending", ["jfif", "jpe", "pgm", "ppm", "gif", "jp2", "avif"])
def test_endings_that_the_decoder_reads(tmp_path: Path, ending: str) -> None:
    kind = {"jfif": "JPEG", "jpe": "JPEG", "pgm": "PPM", "ppm": "PPM", "jp2": "JPEG2000"}.get(ending, ending.upper())
    if ending == "avif" and ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow has no AVIF")
    image = Image.fromarray(np.repeat(np.repeat(PICTURE, 8, 0), 8, 1)).convert("L" if ending == "pgm" else "RGB")
    image.save(tmp_path / f"1.{ending}", kind)
    source = open_source(str(tmp_path))
    with Image.open(tmp_path / f"1.{ending}") as theirs:
        theirs = np.asarray(theirs.convert("RGB"))
    assert np.abs(source.images.load(0, 3).astype(int) - theirs).max() <= (1 if kind == "JPEG" else 0)
    assert source.remarks == ()


def test_folders_of_shards_are_opened(tmp_path: Path) -> None:
    for key in range(6):
        write(tmp_path / "images" / "ab"[key % 2], f"{key}.png")
    packed = pack(str(tmp_path / "images"), tmp_path / "packed", None, 3, 4)
    source = open_source(str(tmp_path / "packed"))
    assert (len(source), source.classes) == (6, ["a", "b"])
    assert source.fingerprint == open_source(packed.source).fingerprint
    content = (tmp_path / "packed" / "000000.tar").read_bytes()
    write(tmp_path / "parts", *(f"train-{n:03}.tar" for n in range(3)), "val-000.tar", content=content)
    with pytest.raises(UserError, match=r"train and val.\nGive one part: .*/parts/train-\{000\.\.002\}\.tar\."):
        open_source(str(tmp_path / "parts"))


def test_folders_of_tables_are_told_what_to_write(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": PNG, "path": None}] * 4, "label": [0, 1, 0, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    dataset = datasets.Dataset.from_dict(rows, features=features)
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "both")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    dataset.to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "plain").mkdir()
    pa.parquet.write_table(pa.table({"image": [PNG] * 4, "label": ["a", "b"] * 2}), tmp_path / "plain" / "x.parquet")
    for name in ("one", "both", "hub", "plain"):
        with pytest.raises(UserError) as error:
            open_source(str(tmp_path / name))
        advice = str(error.value).rpartition("Give ")[2].split()[0].rstrip(".")
        assert advice.startswith(f"hf:{tmp_path / name}")
        source = open_source(advice)
        assert (len(source), source.classes, source.images.load(3, 3).shape) == (4, ["a", "b"], (5, 6, 3))


def test_a_folder_between_is_named_as_the_one_of_the_classes(tmp_path: Path) -> None:
    write(tmp_path, "train/cat/1.png", "train/dog/1.png")
    with pytest.raises(UserError, match=rf"have no labels.\nGive {tmp_path}/train/, whose folders are the classes"):
        open_source(str(tmp_path)).selected_labels  # noqa: B018


def test_masks_that_fit_no_image_are_still_refused(tmp_path: Path) -> None:
    write(tmp_path, "images/1.png", "annotations/1_mask.png")
    with pytest.raises(UserError, match="do not match"):
        open_source(str(tmp_path))
    write(tmp_path, "annotations/coco.json", content=json.dumps({}).encode())
    with pytest.raises(UserError, match="do not match"):
        open_source(str(tmp_path))
