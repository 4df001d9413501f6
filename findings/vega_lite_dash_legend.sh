#!/usr/bin/env bash
# Vega-Lite draws the legend of dashed lines without the dashes, as soon as the lines have points and a colour.
#
# Versions: vl-convert-python 1.9.0.post1 (Vega-Lite 6.4).
# The guess that missed: the legend of `strokeDash` shows a sample of each dash, and `symbolStrokeColor` colours it.
# Seen: with `"point": true` the legend's symbols get `stroke: transparent`, where a colour is encoded, too, and where
# `symbolStrokeColor` is set: what is to make the sample visible makes it invisible. Without points both are as guessed.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet vl-convert-python==1.9.0.post1
"$work/venv/bin/python" - <<'PY'
import re

import vl_convert

ROWS = [{"x": x, "y": x * x, "kind": kind, "run": run} for kind in "ab" for run in "pq" for x in (1, 2, 3)]


def visible(point, colour, **legend):
    """Whether the samples of the legend of dashes have a stroke."""
    axes = {name: {"field": name, "type": "quantitative"} for name in "xy"}
    encoding = axes | {"strokeDash": {"field": "kind", "type": "nominal", "legend": {"symbolType": "stroke", **legend}}}
    if colour:
        encoding["color"] = {"field": "run", "type": "nominal", "legend": None}
    spec = {"data": {"values": ROWS}, "mark": {"type": "line", "point": point}, "encoding": encoding}
    svg = vl_convert.vegalite_to_svg(spec, vl_version="6.4")
    samples = re.findall(r'<path transform="translate[^>]*d="M-5,0L5,0"[^>]*>', svg)
    assert len(samples) == 2, samples
    return all(re.search(r'\sstroke="(?!transparent)', sample) for sample in samples)


seen = {
    (point, colour, tuple(legend)): visible(point, colour, **legend)
    for point in (False, True)
    for colour in (False, True)
    for legend in ({}, {"symbolStrokeColor": "#888"})
}
for (point, colour, legend), shown in seen.items():
    print(f"points {point}, colour {colour}, {', '.join(legend) or 'no symbolStrokeColor'}: {'seen' if shown else 'NOT SEEN'}")
assert all(shown for (point, *_), shown in seen.items() if not point)
assert seen[True, False, ()]
assert not seen[True, True, ()]
assert not seen[True, False, ("symbolStrokeColor",)]
assert not seen[True, True, ("symbolStrokeColor",)]
PY
