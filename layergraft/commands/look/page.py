"""The page of `layergraft look`: images as they are decoded, views beside them, and their numbers."""

from __future__ import annotations

from pathlib import Path

from layergraft.config import MocoConfig
from layergraft.data.augment import random_view
from layergraft.data.randomness import Randomness
from layergraft.data.sources.source import Source
from layergraft.data.survey import Numbers, Survey
from layergraft.data.thumbnails import address
from layergraft.data.view_parameters import DRAWS
from layergraft.runs.figure import Figure, field
from layergraft.runs.interruption import check
from layergraft.runs.readable import counted
from layergraft.runs.report.page import write_page
from layergraft.runs.report.section import Notes, Picture, Section, Sheet, Table

SHOWN, WITH_VIEWS = 48, 8
_THUMBNAIL, _SIDE = 112, 224


def write_look_page(
    out: Path, source: Source, seen: Survey, channels: int, lines: list[tuple[str, str]], said: list[str]
) -> Path:
    """Write one file that opens offline.

    Args:
        out: the file.
        source: the images.
        seen: what was seen of them.
        channels: of what an encoder is given.
        lines: (what, how it is).
        said: remarks.
    """
    table = Table(title="What there is", columns=["what", "how it is"], rows=[list(line) for line in lines])
    notes = [Notes(lines=said, warning=True)] if said else []
    sections = [
        Section(name="source", title="The images", blocks=[table, *notes]),
        Section(
            name="pictures",
            title="As they are decoded",
            intro="Grey levels as an encoder is given them; of more than three channels the first three.",
            blocks=[
                Sheet(
                    title=f"{counted(min(SHOWN, len(seen.keys)), 'image')}", pictures=_decoded(source, seen, channels)
                )
            ],
        ),
        Section(
            name="views",
            title="Views to train on",
            intro="Each image, then the two views of it that MoCo v3 compares, as the usual recipe draws them.",
            blocks=[Sheet(title="Images and views", pictures=_views(source, seen, channels))],
        ),
        Section(
            name="numbers",
            title="Numbers",
            intro="The share of each value over the images looked at: as stored, and after the range.",
            blocks=[
                *([_histogram("stored", "As stored", seen.stored)] if seen.stored else []),
                _histogram("levels", "As given, 0 is black and 255 white", seen.levels),
            ],
        ),
    ]
    if seen.reasons:
        rows = [[f"{count:,}", reason] for reason, count in seen.reasons.most_common(50)]
        unreadable = Table(title="Why images cannot be read", columns=["images", "reason"], rows=rows)
        sections.append(Section(name="unreadable", title="Unreadable", blocks=[unreadable]))
    return write_page(title=source.spec, subtitles=[], sections=sections, out=out)


def _name(source: Source, key: int) -> str:
    return source.images.name(key).encode("utf-8", "replace").decode()


def _decoded(source: Source, seen: Survey, channels: int) -> list[Picture]:
    pictures = []
    for key in seen.keys[:SHOWN].tolist():
        check()
        pixels = source.images.load(key, channels)
        size = f"{pixels.shape[1]} × {pixels.shape[0]}"
        pictures.append(Picture(image=address(pixels, _THUMBNAIL), title=_name(source, key), caption=size))
    return pictures


def _views(source: Source, seen: Survey, channels: int) -> list[Picture]:
    random = Randomness(seed=0, scope="look")
    pictures = []
    for key in seen.keys[:WITH_VIEWS].tolist():
        pixels = source.images.load(key, channels)
        title = _name(source, key)
        pictures.append(Picture(image=address(pixels, _THUMBNAIL), title=title, caption="image"))
        for name, config in MocoConfig().views.items():
            draws = random.uniform(f"view {name}", [key], 0, DRAWS)[0].tolist()
            view = random_view(pixels, config, min(_SIDE, *pixels.shape[:2]), draws)
            pictures.append(Picture(image=address(view, _THUMBNAIL), title=title, caption=f"{name} view"))
    return pictures


def _histogram(name: str, title: str, numbers: list[Numbers]) -> Figure:
    data = [
        {
            "value": round(float(channel.edges[i] + channel.edges[i + 1]) / 2, 6),
            "share": round(100 * float(count) / max(1, int(channel.counts.sum())), 4),
            "channel": channel.name,
        }
        for channel in numbers
        for i, count in enumerate(channel.counts)
    ]
    encoding = {
        "x": field("value", "quantitative", "value"),
        "y": field("share", "quantitative", "share of the numbers (%)"),
        "color": field("channel", "nominal", "channel", sort=None),
    }
    return Figure(
        name=name,
        title=title,
        caption="A line for each channel.",
        data=data,
        spec={"mark": {"type": "line", "interpolate": "step"}, "encoding": encoding},
    )
