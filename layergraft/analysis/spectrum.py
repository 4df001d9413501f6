"""Does a block keep edges or smooth them away? Fourier amplitude of the feature map, by layer.

Park and Kim, ICLR 2022, figure 2: the amplitude at a frequency, relative to the amplitude at frequency zero, in logs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from layergraft.analysis.charts import by_layer, columns
from layergraft.analysis.subject import NotApplicable, Subject, inputs, layer_names, layer_tokens, patch_tokens
from layergraft.runs.figure import ChartRows, Figure, field, tooltip
from layergraft.runs.findings import Findings

IMAGES = 256


def radial_frequencies(grid: tuple[int, int]) -> Tensor:
    """Frequency of each entry of a 2-D Fourier transform in half-cycles per patch: 0 to 1 along an axis."""
    rows, columns = (torch.fft.fftfreq(n).abs() * 2 for n in grid)
    radius: Tensor = (rows[:, None].square() + columns[None].square()).sqrt()
    return radius


def amplitudes(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (N, P, D) -> mean amplitude (rows, columns) of their 2-D Fourier transform over images and channels."""
    maps = tokens.double().reshape(len(tokens), *grid, -1)
    mean: Tensor = torch.fft.fft2(maps, dim=(1, 2)).abs().mean((0, 3))
    return mean


def radial_profile(amplitude: Tensor, bins: int) -> list[tuple[float, float]]:
    """(frequency, mean amplitude) over rings up to frequency 1, the first being frequency 0 alone."""
    frequency = radial_frequencies((amplitude.shape[0], amplitude.shape[1]))
    profile = [(0.0, float(amplitude[0, 0]))]
    for index in range(bins):
        ring = (frequency > index / bins + 1e-9) & (frequency <= (index + 1) / bins + 1e-9)
        if bool(ring.any()):
            profile.append(((index + 1) / bins, float(amplitude[ring].mean())))
    return profile


def relative_log(profile: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Amplitudes relative to frequency 0, in log10."""
    floor = 1e-12 * max(value for _, value in profile)
    return [(frequency, math.log10((value + floor) / (profile[0][1] + floor))) for frequency, value in profile]


@torch.inference_mode()
def spectrum(subject: Subject) -> Findings:
    """Profiles of all layers, and the amplitude at the highest frequency."""
    data: ChartRows = []
    for name, encoder in subject.encoders.items():
        if min(encoder.grid) < 2:
            raise NotApplicable("the grid of patches is too small for frequencies")
        bins = max(1, min(encoder.grid) // 2)
        sums = [torch.zeros(encoder.grid, dtype=torch.float64) for _ in range(encoder.depth + 1)]
        for images in inputs(encoder, subject.sample(IMAGES)):
            for of_layer, tokens in zip(sums, layer_tokens(encoder, images), strict=True):
                of_layer += amplitudes(patch_tokens(encoder, tokens), encoder.grid).cpu() * len(images)
        for layer, of_layer in zip(layer_names(encoder), sums, strict=True):
            for frequency, value in relative_log(radial_profile(of_layer, bins)):
                data.append({"encoder": name, "layer": layer, "frequency": frequency, "log amplitude": value})
    top = columns([row for row in data if row["frequency"] == 1.0], "encoder", "layer", "log amplitude")
    encoding = {
        "x": field("frequency", "quantitative", "frequency (1: alternating patches)"),
        "y": field("log amplitude", "quantitative", "log10 of relative amplitude"),
        "color": field("layer", "ordinal", sort=None, scale={"scheme": "viridis"}, legend={"title": None}),
        "tooltip": tooltip("encoder", "layer", **{"frequency": ".2f", "log amplitude": ".2f"}),
    }
    if len(subject.encoders) > 1:
        encoding["strokeDash"] = field("encoder", "nominal", sort=None)
    profile = Figure(
        name="spectrum",
        title="Spectrum of the feature maps",
        caption="Fourier amplitude of the patch tokens relative to their mean, by layer: a steeper fall is smoother.",
        data=data,
        spec={"mark": {"type": "line", "point": True}, "encoding": encoding},
    )
    high = by_layer(
        "spectrum-high",
        "Do edges survive?",
        "Amplitude of the highest frequency relative to the mean. Rising: the block sharpens; falling: it smooths.",
        top,
        "log amplitude",
        label="log10 of relative amplitude",
        shown=".2f",
    )
    return Findings(numbers={"layers": data}, figures=[high, profile], compares=True)
