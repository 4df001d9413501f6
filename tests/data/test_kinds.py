"""Every kind of source: the same images, classes and batches, whatever they lie in."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from layergraft.commands.pack import pack
from layergraft.config import ViewConfig
from layergraft.data.decode import BadImage
from layergraft.data.loader import TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import Source
from layergraft.errors import UserError

CLASSES = ["cat", "dog", "young fox"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 images in three class folders, one with a space in its name."""
    random = np.random.default_rng(0)
    for index in range(24):
        path = tmp_path / "images" / CLASSES[index % 3] / f"image {index}.{('jpg', 'png', 'webp', 'bmp')[index % 4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(small, (40 + index, 30)))
    return tmp_path / "images"


def files(root: Path) -> list[str]:
    """Relative paths in the order of their bytes: what a folder's keys count."""
    return sorted((str(path.relative_to(root)) for path in root.rglob("*.*")), key=os.fsencode)


def write_list(root: Path, path: Path) -> str:
    lines = [f"{name} {name.partition('/')[0].replace(' ', '_')}" for name in files(root)]
    path.write_text("\n".join(lines))  # no newline at the end
    return f"{path}?root={root}"


def write_table(root: Path, path: Path, embedded: bool) -> str:
    names = files(root)
    labels = [name.partition("/")[0] for name in names]
    if path.suffix == ".csv":
        path.write_text("path,label\n" + "".join(f'"{n}",{c}\n' for n, c in zip(names, labels, strict=True)))
    else:
        images = [{"bytes": (root / name).read_bytes(), "path": name} for name in names] if embedded else names
        pa.parquet.write_table(pa.table({"image": images, "label": labels}), path, row_group_size=5)
    return str(path) if embedded else f"{path}?root={root}"


def spec_of(kind: str, root: Path, tmp_path: Path) -> str:
    if kind == "list":
        return write_list(root, tmp_path / "list.txt")
    if kind in ("table.csv", "table.parquet", "embedded.parquet"):
        return write_table(root, tmp_path / kind, kind == "embedded.parquet")
    if kind == "shards":
        return pack(str(root), tmp_path / "packed", None, 3, 7).source
    if kind == "hf":
        datasets = pytest.importorskip("datasets")
        names = files(root)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
        rows = {"image": [str(root / n) for n in names], "label": [n.partition("/")[0] for n in names]}
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "hf")
        return f"hf:{tmp_path / 'hf'}"
    return str(root)


def views(source: Source, steps: range, rank: int = 0, world_size: int = 1, workers: int = 0) -> list[np.ndarray]:
    loader = TrainLoader(
        source,
        {"a": ViewConfig(jitter=0.8, blur=0.5, gray=0.2, solarize=0.2)},
        size=16,
        channels=3,
        batch_size=8,
        random=Randomness(seed=0, scope="x"),
        skipped=SkippedImages(0),
        rank=rank,
        world_size=world_size,
        workers=workers,
    )
    return [batch.views["a"].numpy() for batch in loader.batches(steps.start, steps.stop)]


KINDS = ["folder", "list", "table.csv", "table.parquet", "embedded.parquet", "shards", "hf"]


@pytest.mark.parametrize("kind", KINDS)
def test_same_images_and_batches_in_every_kind(kind: str, folder: Path, tmp_path: Path) -> None:
    source, plain = open_source(spec_of(kind, folder, tmp_path)), open_source(str(folder))
    assert [c.replace(" ", "_") for c in source.classes] == [c.replace(" ", "_") for c in CLASSES]
    assert source.selected_labels.tolist() == plain.selected_labels.tolist()
    for key in range(24):
        assert source.images.read(key) == (folder / files(folder)[key]).read_bytes()
    whole = views(source, range(7))
    for workers in (1, 3):
        for one, other in zip(whole, views(source, range(7), workers=workers), strict=True):
            assert np.array_equal(one, other)
    parts = [views(source, range(7), rank=rank, world_size=2) for rank in (0, 1)]
    for one, first, second in zip(whole, *parts, strict=True):
        assert np.array_equal(one, np.concatenate((first, second)))
    for stop in range(1, 7):  # stopped after any batch and resumed
        for one, other in zip(whole[stop:], views(source, range(stop, 7), workers=1), strict=True):
            assert np.array_equal(one, other)
    for one, other in zip(whole, views(plain, range(7)), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_index_lies_beside_the_run_and_is_used_again(kind: str, folder: Path, tmp_path: Path) -> None:
    spec, index = spec_of(kind, folder, tmp_path), tmp_path / "run" / "index"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if not path.is_relative_to(index.parent)}
    first = open_source(spec, index)
    written = {path: path.stat().st_mtime_ns for path in index.glob("*.index")}
    assert len(written) == (0 if kind == "shards" else 1)  # packed shards bring theirs
    again = open_source(spec, index)
    assert {path: path.stat().st_mtime_ns for path in index.glob("*.index")} == written
    assert again.fingerprint == first.fingerprint == open_source(spec).fingerprint
    assert again.images.read(5) == first.images.read(5)
    now = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if not path.is_relative_to(index.parent)}
    assert now == before


def test_a_changed_folder_has_a_new_index(folder: Path, tmp_path: Path) -> None:
    first = open_source(str(folder), tmp_path / "index")
    (folder / "dog" / "new.png").write_bytes((folder / files(folder)[0]).read_bytes())
    second = open_source(str(folder), tmp_path / "index")
    assert (len(first), len(second)) == (24, 25)
    assert first.fingerprint != second.fingerprint


def test_what_systems_leave_behind_is_no_image(folder: Path, tmp_path: Path) -> None:
    expected = files(folder)
    for name in ("cat/._image 0.jpg", "__MACOSX/cat/image 0.jpg", ".ipynb_checkpoints/image.png", "dog/.cache/x.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(folder, ".")
    source = open_source(str(folder))
    assert [source.images.name(key) for key in range(len(source))] == expected
    assert source.classes == CLASSES
    assert len(open_source(str(tmp_path / "all.tar"))) == 24


def test_lists_as_people_write_them(tmp_path: Path) -> None:
    content = cv2.imencode(".png", np.zeros((5, 5, 3), np.uint8))[1].tobytes()
    for name in ("a b.png", "c.JPG", "n01440764/n01440764_10.JPEG", "n02123045/n02123045_7.JPEG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    file = tmp_path / "list.txt"

    def opened(text: str) -> tuple[list[str], list[str] | None]:
        file.write_bytes(text.encode())
        source = open_source(str(file))
        assert all(source.images.load(key, 3).shape == (5, 5, 3) for key in range(len(source)))
        labels = None if source.labels is None else [source.classes[i] for i in source.selected_labels]
        return [source.images.name(key) for key in range(len(source))], labels

    assert opened("a b.png\r\n\r\nc.JPG\r\n") == (["a b.png", "c.JPG"], None)
    assert opened("a b.png 10\nc.JPG\t9") == (["a b.png", "c.JPG"], ["10", "9"])
    assert open_source(str(file)).classes == ["9", "10"]  # by number
    assert opened("a b.png cat \nc.JPG dog\n") == (["a b.png", "c.JPG"], ["cat", "dog"])
    assert opened("\ufeffa b.png cat\nc.JPG dog\n") == (["a b.png", "c.JPG"], ["cat", "dog"])  # a byte order mark
    assert opened("a b.png   3\n \t c.JPG \t 4 \t \r\n  \n") == (["a b.png", "c.JPG"], ["3", "4"])
    assert opened("a b.png\tgolden retriever\nc.JPG cat\n") == (["a b.png", "c.JPG"], ["golden retriever", "cat"])
    comments = "# my list\n#path label\na b.png cat\n  # 3 more to come\n#1.png dog\n#\n"
    (tmp_path / "#1.png").write_bytes(content)
    assert opened(comments) == (["a b.png", "#1.png"], ["cat", "dog"])
    assert opened("#1.png\n# no labels\n") == (["#1.png"], None)
    paths = ["n01440764/n01440764_10.JPEG", "n02123045/n02123045_7.JPEG"]
    assert opened("n01440764_10.JPEG\nn02123045_7.JPEG") == (paths, ["n01440764", "n02123045"])
    for text, message in (
        ("", "empty"),
        ("\n \r\n\n", "empty"),
        ("# nothing\n", "empty"),
        ("a b.png cat\nc.JPG\n", "have none"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            open_source(str(file))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_missing_labels_of_a_table_are_no_class(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"table.{suffix}"

    def opened(labels: list[object]) -> Source:
        paths = [f"{number}.png" for number in range(len(labels))]
        if suffix == "csv":
            cells = ["" if label is None else label for label in labels]
            file.write_text("path,label\n" + "".join(f"{p},{c}\n" for p, c in zip(paths, cells, strict=True)))
        else:
            pa.parquet.write_table(pa.table({"path": paths, "label": labels}), file)
        return open_source(str(file))

    for nothing in (None, "", " ", *([float("nan")] if suffix == "parquet" else [])):
        source = opened([nothing] * 3)
        assert (source.labels, source.classes) == (None, [])
    with pytest.raises(UserError, match="some have none"):
        opened(["cat", None, "dog"])
    assert opened([10, 9, 10]).classes == ["9", "10"]
    if suffix == "parquet":
        with pytest.raises(UserError, match="some have none"):
            opened([1.0, float("nan"), 0.0])
        assert opened([1.0, 2.0]).classes == ["1", "2"]  # whole numbers, as pandas writes them


def test_whole_numbers_with_a_point_are_the_same_classes(tmp_path: Path) -> None:
    """As pandas writes integer labels where one is missing: `3.0` of one table is `3` of the other."""
    texts = {"point": ["3.0", "10.0", "3.0"], "mixed": ["3.00", "10", "3"], "plain": ["3", "10", "3"]}
    for name, labels in texts.items():
        rows = "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))
        (tmp_path / f"{name}.csv").write_text("path,label\n" + rows)
        (tmp_path / f"{name}.txt").write_text(rows.replace(",", " "))
        for suffix in ("csv", "txt"):
            source = open_source(str(tmp_path / f"{name}.{suffix}"))
            assert source.classes == ["3", "10"]
            assert source.selected_labels.tolist() == [0, 1, 0]
    (tmp_path / "versions.csv").write_text("path,label\na.png,1.0\nb.png,1.5\n")
    assert open_source(str(tmp_path / "versions.csv")).classes == ["1.0", "1.5"]


def test_only_the_wanted_columns_of_a_table_are_read(tmp_path: Path) -> None:
    lines = [f"{number},{number}.png,{number % 2}\n" for number in range(100_000)]  # more than one block of the reader
    lines[-1] = "not a number,last.png,1\n"
    (tmp_path / "t.csv").write_text("size,path,label\n" + "".join(lines))
    source = open_source(str(tmp_path / "t.csv"))
    assert (len(source), source.classes) == (100_000, ["0", "1"])
    assert source.images.name(99_999) == "last.png"


def test_types_of_a_table(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    for images in (pa.array([b"x", b"y"], pa.binary_view()), pa.array([b"x", b"y"], pa.large_binary())):
        pa.parquet.write_table(pa.table({"image": images}), file)
        assert open_source(str(file)).images.read(1) == b"y"
    for paths in (pa.array(["a", "b"], pa.string_view()), pa.array(["a", "b"]).dictionary_encode()):
        pa.parquet.write_table(pa.table({"image": paths}), file)
        assert open_source(str(file)).images.name(1) == "b"
    for wrong in (pa.array([[1], [2]], pa.list_(pa.uint8())), pa.array([{"x": 1}] * 2), pa.array([1, 2])):
        pa.parquet.write_table(pa.table({"image": wrong}), file)
        with pytest.raises(UserError, match="neither paths nor image files"):
            open_source(str(file))


def test_a_table_of_hugging_face_may_hold_paths(folder: Path, tmp_path: Path) -> None:
    names = files(folder)[:4]
    content = [(folder / name).read_bytes() for name in names]
    images = [
        {"bytes": content[0], "path": "gone.png"},
        {"bytes": None, "path": names[1]},
        {"bytes": None, "path": str(folder / names[2])},
        {"bytes": None, "path": "../secret.png"},
        {"bytes": None, "path": None},
        None,
    ]
    pa.parquet.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
    source = open_source(f"{tmp_path / 't.parquet'}?root={folder}")
    assert [source.images.read(key) for key in range(3)] == content[:3]
    for key, reason in ((3, "outside"), (4, "empty row"), (5, "empty row")):
        with pytest.raises(BadImage, match=reason):
            source.images.read(key)
    pa.parquet.write_table(pa.table({"image": [{"path": name} for name in names]}), folder / "t.parquet")
    source = open_source(str(folder / "t.parquet"))
    assert [source.images.read(key) for key in range(4)] == content
    pa.parquet.write_table(pa.table({"image": [{"path": name} for name in names[::-1]]}), folder / "t.parquet")
    assert open_source(str(folder / "t.parquet")).fingerprint != source.fingerprint


def test_damaged_tables_are_explained(tmp_path: Path) -> None:
    lines = [f"{number}.png,{number % 2}\n" for number in range(200_000)]
    (tmp_path / "ragged.csv").write_text("path,label\n" + "".join(lines) + "x.png,1,2\n")
    paths = pa.table({"path": [f"image {number}" for number in range(50_000)]})
    pa.parquet.write_table(paths, tmp_path / "page.parquet", use_dictionary=False)
    content = bytearray((tmp_path / "page.parquet").read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    (tmp_path / "page.parquet").write_bytes(content)
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "empty.parquet").write_bytes(b"")
    labels = pa.array([[1], [2]])
    pa.parquet.write_table(pa.table({"path": ["a", "b"], "label": labels}), tmp_path / "labels.parquet")
    for name in ("ragged.csv", "page.parquet", "empty.csv", "empty.parquet", "labels.parquet"):
        with pytest.raises(UserError, match="cannot be read as a table"):
            open_source(str(tmp_path / name))


def test_bare_imagenet_names_lie_flat_or_in_folders(tmp_path: Path) -> None:
    names = ["n01440764_10.JPEG", "n02123045_7.JPEG"]
    for name in names:
        for path in (tmp_path / "flat" / name, tmp_path / "nested" / name.partition("_")[0] / name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
            fsspec.filesystem("memory").pipe(f"/imagenet/{path.relative_to(tmp_path)}", name.encode())
    (tmp_path / "list.txt").write_text("\n".join(names))
    for kind in ("flat", "nested"):
        for root in (str(tmp_path / kind), f"memory://imagenet/{kind}"):
            source = open_source(f"{tmp_path / 'list.txt'}?root={root}", tmp_path / "index")
            assert [source.images.read(key) for key in (0, 1)] == [name.encode() for name in names]
            assert [source.classes[label] for label in source.selected_labels] == ["n01440764", "n02123045"]
    fsspec.filesystem("memory").rm("/imagenet", recursive=True)


def test_paths_and_members_cannot_leave_their_root(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes((folder / files(folder)[0]).read_bytes())
    for path in ("../secret.png", str(tmp_path / "secret.png"), "cat/../../secret.png"):
        (folder / "t.csv").write_text(f"path\n{path}\n")
        source = open_source(str(folder / "t.csv"))
        with pytest.raises(BadImage, match="outside"):
            source.images.read(0)
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        link = tarfile.TarInfo("x.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        archive.addfile(link)
        content = (folder / files(folder)[0]).read_bytes()
        header = tarfile.TarInfo("../../up.jpg")
        header.size = len(content)
        archive.addfile(header, io.BytesIO(content))
    source = open_source(str(tmp_path / "evil.tar"))
    assert [source.images.name(key) for key in range(len(source))] == ["evil.tar:../../up.jpg"]
    assert source.images.read(0) == content  # read where it lies, never unpacked


def test_a_path_that_no_file_can_have_is_a_bad_image(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a\0b.png\n")
    source = open_source(str(tmp_path / "list.txt"))
    with pytest.raises(BadImage, match="null"):
        source.images.read(0)
    assert source.stamp() is not None


def test_pack_shrinks_once(folder: Path, tmp_path: Path) -> None:
    packed = pack(str(folder), tmp_path / "packed", 20, 3, 10)
    source = open_source(packed.source)
    assert (packed.images, packed.skipped, len(packed.shards)) == (24, 0, 3)
    assert {min(source.images.load(key, 3).shape[:2]) for key in range(24)} == {20}
    with pytest.raises(UserError, match="not empty"):
        pack(str(folder), tmp_path / "packed", None, 3, 10)


def test_wrong_sources_are_explained(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id_code,label\na.png,1\n")
    (tmp_path / "no.tar").write_bytes(b"x" * 2000)
    for spec, message in (
        (str(tmp_path / "t.csv"), "no column `path` or `image`"),
        (str(tmp_path / "no.tar"), "no tar file"),
        (str(tmp_path / "{0..2}.tar"), "no shard"),
        (f"{folder}?fracton=1", "'fraction'"),
        (str(folder / files(folder)[0]), "no file of a known kind"),
        (f"hf:{tmp_path / 'nothing'}", "cannot be opened"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(spec)
