"""Time the making of views, ours and other libraries', from the bytes of files, on one core."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import count
from typing import Any, Literal

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from rich.console import Console

from layergraft.commands.bench.beside import training_beside
from layergraft.config.data import Augment, ViewConfig
from layergraft.config.objectives import MaeConfig, MocoConfig
from layergraft.data.decode import BadImage, decode
from layergraft.data.loader import TrainLoader
from layergraft.data.randomness import Randomness
from layergraft.data.skipped import SkippedImages
from layergraft.data.sources.open import open_source
from layergraft.data.sources.source import EncodedImages, Source
from layergraft.errors import UserError
from layergraft.runs.heap import set_memory_reuse

FILES = 200
BATCH = 64
Pipeline = Callable[[list[int]], object]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The narrowest of the usual kernels for a standard deviation up to 2; torchvision's time grows with its square.
BLUR_KERNEL = 9


class FilesInMemory(EncodedImages):
    """The files of a source, read ahead, so that no pipeline waits for the disk."""

    def __init__(self, contents: list[bytes]) -> None:
        self.contents = contents

    def __len__(self) -> int:
        return len(self.contents)

    def name(self, index: int) -> str:
        return f"file {index}"

    def read(self, index: int) -> bytes:
        return self.contents[index]


def files_of(source: Source) -> tuple[FilesInMemory, int]:
    """The first files of a source that are images, and how many before the last of them are none."""
    contents: list[bytes] = []
    bad = 0
    for key in source.keys.tolist():
        if len(contents) == FILES:
            break
        try:
            content = source.images.read(key)
            decode(content, 3)
        except BadImage:
            bad += 1
        else:
            contents.append(content)
    if not contents:
        raise UserError(f"No image of {source.spec!r} can be read.", "Give --data FOLDER with some that can.")
    return FilesInMemory(contents), bad


def pillow_image(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def tensor_image(content: bytes) -> Any:
    from torchvision.io import ImageReadMode, decode_image

    return decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)


def opencv_image(content: bytes) -> Any:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError("OpenCV knows no such format")
    return image


def ours(files: FilesInMemory, views: list[ViewConfig], size: int, augment: Augment) -> Pipeline:
    """The training loader itself: uint8 batches, which are normalised on the training step's device."""
    loader = TrainLoader(
        Source(spec="bench", images=files, keys=np.arange(len(files), dtype=np.int64)),
        {str(index): view for index, view in enumerate(views)},
        size=size,
        channels=3,
        batch_size=min(BATCH, len(files)),
        random=Randomness(seed=0, scope="bench"),
        skipped=SkippedImages(0),
        augment=augment,
    )
    steps = count()
    return lambda chosen: loader.batch(next(steps))


class PillowBlur:
    """Pillow's approximate Gaussian, as in the code that MoCo v3 pipelines are usually copied from."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, image: Image.Image) -> Image.Image:
        sigma = float(torch.empty(1).uniform_(self.low, self.high))
        return image.filter(ImageFilter.GaussianBlur(sigma))


def torchvision_steps(t: Any, view: ViewConfig, size: int, blur: Any) -> list[Any]:
    """A view in torchvision's transforms, up to the pixels' normalisation.

    Args:
        t: `torchvision.transforms` or its `v2`.
        view: the augmentation.
        size: side of the view.
        blur: a transform that blurs every image.
    """
    mode = t.InterpolationMode(view.interpolation)
    steps: list[Any] = [t.RandomResizedCrop(size, view.crop_scale, view.crop_ratio, interpolation=mode)]
    if view.jitter:
        jitter = t.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
        steps.append(t.RandomApply([jitter], view.jitter))
    if view.gray:
        steps.append(t.RandomGrayscale(view.gray))
    if view.blur:
        steps.append(t.RandomApply([blur], view.blur))
    if view.solarize:
        steps.append(t.RandomSolarize(128, view.solarize))
    return [*steps, t.RandomHorizontalFlip(view.flip)]


def torchvision_v1(files: FilesInMemory, views: list[ViewConfig], size: int, pillow_blur: bool = False) -> Pipeline:
    """The usual pipeline of the field: torchvision's transforms of Pillow images, normalised tensors."""
    from torchvision import transforms as t

    chains = []
    for view in views:
        blur = PillowBlur(*view.blur_sigma) if pillow_blur else t.GaussianBlur(BLUR_KERNEL, view.blur_sigma)
        chains.append(t.Compose([*torchvision_steps(t, view, size, blur), t.ToTensor(), t.Normalize(MEAN, STD)]))

    def make(chosen: list[int]) -> object:
        images = [pillow_image(files.read(index)) for index in chosen]
        return [list(map(chain, images)) for chain in chains]

    return make


def torchvision_v2(files: FilesInMemory, views: list[ViewConfig], size: int) -> Pipeline:
    """torchvision's second transforms, on uint8 tensors."""
    from torchvision.transforms import v2 as t

    chains = []
    for view in views:
        steps = torchvision_steps(t, view, size, t.GaussianBlur(BLUR_KERNEL, view.blur_sigma))
        chains.append(t.Compose([*steps, t.ToDtype(torch.float32, scale=True), t.Normalize(MEAN, STD)]))

    def make(chosen: list[int]) -> object:
        images = [tensor_image(files.read(index)) for index in chosen]
        return [list(map(chain, images)) for chain in chains]

    return make


def albumentations(files: FilesInMemory, views: list[ViewConfig], size: int) -> Pipeline:
    """albumentations on OpenCV's decoder; uint8, as ours."""
    import albumentations as a

    methods = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
    chains = []
    for view in views:
        method = methods[view.interpolation]
        steps: list[Any] = [a.RandomResizedCrop((size, size), view.crop_scale, view.crop_ratio, interpolation=method)]
        if view.jitter:
            ranges = [(1 - x, 1 + x) for x in (view.brightness, view.contrast, view.saturation)]
            steps.append(a.ColorJitter(*ranges, (-view.hue, view.hue), p=view.jitter))
        if view.gray:
            steps.append(a.ToGray(p=view.gray))
        if view.blur:
            steps.append(a.GaussianBlur(blur_limit=0, sigma_limit=view.blur_sigma, p=view.blur))
        if view.solarize:
            steps.append(a.Solarize(threshold_range=(0.5, 0.5), p=view.solarize))
        chains.append(a.Compose([*steps, a.HorizontalFlip(p=view.flip)]))

    def make(chosen: list[int]) -> object:
        images = [opencv_image(files.read(index)) for index in chosen]
        views = [chain(image=image)["image"] for chain in chains for image in images]
        return [np.ascontiguousarray(view.transpose(2, 0, 1)) for view in views]

    return make


def _missing(files: FilesInMemory, read: Callable[[bytes], object]) -> str | None:
    """Why a library's decoder cannot read all files; None where it can."""
    for content in files.contents:
        try:
            read(content)
        except Exception as error:  # each library has its own
            return str(error).partition("\n")[0].rstrip(".")
    return None


def pipelines(
    files: FilesInMemory, views: list[ViewConfig], size: int, say: Callable[[str], None]
) -> dict[str, Pipeline]:
    """Every pipeline that is installed and can read all files; says which cannot."""
    usable = {"fast": ours(files, views, size, "fast"), "exact": ours(files, views, size, "exact")}
    others: dict[str, tuple[Callable[..., Pipeline], Callable[[bytes], object]]] = {
        "torchvision_v1_pillow_blur": (partial(torchvision_v1, pillow_blur=True), pillow_image),
        "torchvision_v1": (torchvision_v1, pillow_image),
        "torchvision_v2": (torchvision_v2, tensor_image),
        "albumentations": (albumentations, opencv_image),
    }
    for name, (build, read) in others.items():
        try:
            pipeline = build(files, views, size)
        except ImportError:
            continue
        if reason := _missing(files, read):
            say(f"{name} is left out, for it cannot read all of the files: {reason}.")
        else:
            usable[name] = pipeline
    return usable


def time_in_turn(candidates: dict[str, Pipeline], files: int, seconds: float) -> dict[str, list[float]]:
    """Images by the processor time of this thread, a number a round, of pipelines that take turns.

    Args:
        candidates: name -> what makes the views of some files.
        files: how many there are.
        seconds: how long; at least three rounds after one that warms up.
    """
    batch = min(BATCH, files)
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    began, turn = time.perf_counter(), -1  # the first turn is a warm-up
    while time.perf_counter() - began < seconds or turn < 3:
        chosen = [(max(turn, 0) * batch + index) % files for index in range(batch)]
        for name, make in candidates.items():
            start = time.thread_time()
            make(chosen)
            if turn >= 0:
                rates[name].append(batch / (time.thread_time() - start))
        turn += 1
    return rates


def ratios_of(rates: dict[str, list[float]], ours: str = "fast") -> dict[str, dict[str, float]]:
    """How many times as fast as each other pipeline ours is, round by round: median, min and max."""
    ratios = {name: np.array(rates[ours]) / np.array(theirs) for name, theirs in rates.items() if name != ours}
    return {
        name: {"median": float(np.median(ratio)), "min": float(ratio.min()), "max": float(ratio.max())}
        for name, ratio in ratios.items()
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV and torch on this thread alone, in a process that keeps its memory as `train` does."""
    threads = torch.get_num_threads()
    set_memory_reuse("keep")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(-1)


def bench_data(
    source: str, views: Literal["mae", "moco"], size: int, busy: bool, seconds: float, quiet: bool
) -> dict[str, Any]:
    """Time all pipelines in turn on up to 200 files, from bytes to what goes to the device; see `layergraft.bench`.

    Rounds alternate between the pipelines, all on this thread alone; a rate is the median over rounds of images by the
    thread's processor time, so that other work on the machine hardly counts, but for caches and memory that it shares:
    `busy` has a training step use them.
    """
    console = Console(stderr=True, soft_wrap=True, markup=False, quiet=quiet)
    files, bad = files_of(open_source(source))
    if bad:
        console.print(f"{bad} files of {source} are left out, for they cannot be read.")
    objective = MocoConfig() if views == "moco" else MaeConfig()
    candidates = pipelines(files, list(objective.views.values()), size, console.print)
    beside = training_beside(views, size) if busy else nullcontext()
    with one_thread(), beside as training:
        rates = time_in_turn(candidates, len(files), seconds)
        training_rate = training.images_per_second() if training else None
    figures: dict[str, Any] = {name: float(np.median(rounds)) for name, rounds in rates.items()}
    average = np.mean([len(content) for content in files.contents]) / 1024
    rates_of_all = ", ".join(f"{name} {rate:.0f}" for name, rate in figures.items())
    load = " beside a training step" if busy else ""
    console.print(
        f"{views} views at {size} px of {len(files)} files of {source} ({average:.0f} KiB on average), "
        f"images/s per core{load}: {rates_of_all}"
    )
    figures |= {"ratios": ratios_of(rates), "rounds": len(rates["fast"])}
    figures |= {"training_images_per_second": training_rate} if busy else {}
    print(json.dumps(figures))
    return figures
