"""Mean and standard deviation that an encoder's input is normalised with: stated by its files, given, or assumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from layergraft.encoders.options import EncoderOptions
from layergraft.errors import UserError
from layergraft.runs.json_files import read_json
from layergraft.runs.readable import counted

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_REMEDY = "Append the encoder's own: ?mean=…&std=…, a number a channel, of pixels in [0, 1]."


class InputStatistics(NamedTuple):
    """Of pixels in [0, 1], a number a channel (or one for all, or as many as a file has)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def default_statistics(channels: int) -> InputStatistics:
    """Return ImageNet's statistics for colour, their average otherwise: what is assumed where nothing is known."""
    if channels == 3:
        return InputStatistics(IMAGENET_MEAN, IMAGENET_STD)
    return InputStatistics((sum(IMAGENET_MEAN) / 3,) * channels, (sum(IMAGENET_STD) / 3,) * channels)


def _numbers(content: dict[str, Any], key: str, file: Path) -> tuple[float, ...]:
    """A list of finite numbers, or one number."""
    value: Any = content.get(key)
    listed: list[Any] = value if isinstance(value, list) and value else [value]
    if not all(type(number) in (int, float) and math.isfinite(number) for number in listed):
        raise UserError(f"{str(file)!r}: {key} {value!r} is no list of numbers.", _REMEDY)
    return tuple(map(float, listed))


def _deviations(content: dict[str, Any], key: str, file: Path) -> tuple[float, ...]:
    values = _numbers(content, key, file)
    if min(values) <= 0:
        raise UserError(f"{str(file)!r}: {key} {content[key]!r} is not above 0.", _REMEDY)
    return values


def read_timm(pretrained_cfg: dict[str, Any], file: Path) -> InputStatistics:
    """Read the statistics in the `pretrained_cfg` of a `config.json` of ours or timm's.

    Raises:
        UserError: they are no numbers.
    """
    return InputStatistics(_numbers(pretrained_cfg, "mean", file), _deviations(pretrained_cfg, "std", file))


def read_image_processor(file: Path) -> tuple[InputStatistics, list[str]]:
    """Read what an image processor of transformers does to levels from 0 to 255, as statistics of pixels in [0, 1].

    It computes (level · rescale_factor - image_mean) / image_std; a step that is switched off is left out.

    Args:
        file: `preprocessor_config.json`.

    Returns:
        (statistics, what is unusual).

    Raises:
        UserError: its settings are missing or of another type.
    """
    content = read_json(file)
    switches = {key: content.get(key, True) for key in ("do_rescale", "do_normalize")}
    factor = content.get("rescale_factor", 1 / 255)
    for key, value in switches.items():
        if not isinstance(value, bool):
            raise UserError(f"{str(file)!r}: {key} {value!r} is neither true nor false.", _REMEDY)
    if type(factor) not in (int, float) or not 0 < factor < math.inf:
        raise UserError(f"{str(file)!r}: rescale_factor {factor!r} is no positive number.", _REMEDY)
    white = 255 * factor if switches["do_rescale"] else 255.0  # a pixel of 1, in front of the normalisation
    white = 1.0 if math.isclose(white, 1, rel_tol=1e-6) else white
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if switches["do_normalize"]:
        mean, std = _numbers(content, "image_mean", file), _deviations(content, "image_std", file)
    statistics = InputStatistics(tuple(m / white for m in mean), tuple(s / white for s in std))
    unusual = [f"{key} false" for key, value in switches.items() if not value]
    unusual += [f"rescale_factor {factor:g}"] if switches["do_rescale"] and white != 1 else []
    if not unusual:
        return statistics, []
    text = f"mean {_listed(statistics.mean)} and std {_listed(statistics.std)} of pixels in [0, 1]"
    return statistics, [f"Its image processor has {' and '.join(unusual)}: {text}."]


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def choose_statistics(
    stated: InputStatistics | None, options: EncoderOptions, channels: int, address: str
) -> tuple[InputStatistics, list[str]]:
    """Choose what an encoder's input is normalised with: given in the ENC, else stated by its files, else assumed.

    Args:
        stated: by the files; None where they do not.
        options: of the ENC.
        channels: of the encoder's input.
        address: the ENC, for messages.

    Returns:
        (a number for each channel, what was assumed or changed).

    Raises:
        UserError: other numbers than the encoder has channels.
    """
    notes = []
    chosen = []
    for name, known, usual in zip(("mean", "std"), stated or (None, None), default_statistics(channels), strict=True):
        values: tuple[float, ...] = getattr(options, name) or known or usual
        if len(values) not in (1, channels):
            if len(set(values)) > 1 or getattr(options, name):
                raise UserError(
                    f"The {name} of {address!r} has {counted(len(values), 'number')}, but its encoder "
                    f"{counted(channels, 'channel')}.",
                    _REMEDY,
                )
            notes.append(
                f"Its {name}, {len(values)} times {values[0]:.4g}, is used for its {counted(channels, 'channel')}."
            )
        chosen.append(values if len(values) == channels else values[:1] * channels)
    statistics = InputStatistics(*chosen)
    missing = [name for name in ("mean", "std") if getattr(options, name) is None]
    if stated is None and missing:
        text = " and ".join(f"{name} {_listed(getattr(statistics, name))}" for name in missing)
        whose = "ImageNet's" if channels == 3 else "ImageNet's average,"
        notes.append(f"{whose} {text} are assumed; else append ?mean=…&std=….")
    return statistics, notes
