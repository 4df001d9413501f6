"""How far the views of `data.augment: fast` are from those of `exact`, in grey levels and in a picture.

For each operation alone, on top of the crop, and for MoCo v3's first view: the largest difference of any pixel and the
mean over pixels, over 200 draws of each of scikit-learn's two sample photographs, at 224 pixels, with the same random
parameters. Prints the table of docs/measured.md and draws docs/pictures/views.jpg, a column a draw.

    python tools/compare_views.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import sklearn

from layergraft.config import MocoConfig, ViewConfig
from layergraft.data.arrays import Pixels
from layergraft.data.augment import random_view
from layergraft.data.decode import decode
from layergraft.data.randomness import Randomness
from layergraft.data.view_parameters import DRAWS, Draws, reduction

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "views.jpg"
PHOTOS = sorted(Path(sklearn.__file__).parent.glob("datasets/images/*.jpg"))
SIZE, COUNT = 224, 200
NONE = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
MOCO = MocoConfig().views["first"]
OPERATIONS = {
    "crop and resize": ViewConfig(),
    **{name: ViewConfig(jitter=1, **(NONE | {name: getattr(MOCO, name)})) for name in NONE},
    "grey": ViewConfig(gray=1),
    "blur": ViewConfig(blur=1),
    "solarize": ViewConfig(solarize=1),
    "all of a MoCo v3 view": MOCO,
}


def both(content: bytes, config: ViewConfig, draws: Draws, from_file: bool = False) -> tuple[Pixels, Pixels]:
    """The view on both paths; `fast` decodes the file in its own way only where asked, else as `exact` does."""
    whole = decode(content, 3)
    reduced = decode(content, 3, lambda h, w: reduction(h, w, [(config, SIZE, draws)])) if from_file else whole
    return random_view(reduced, config, SIZE, draws, "fast"), random_view(whole, config, SIZE, draws, "exact")


def draw_picture(contents: list[bytes], draws: Draws) -> None:
    """Rows: fast, exact, and their difference five times as strong, around grey."""
    columns = []
    for index, draw in enumerate(draws):
        fast, exact = both(contents[index % len(contents)], MOCO, draw, from_file=True)
        apart = np.clip(128 + 5 * (fast.astype(int) - exact), 0, 255).astype(np.uint8)
        columns.append(
            np.vstack([np.pad(view, ((2, 2), (2, 2), (0, 0)), constant_values=255) for view in (fast, exact, apart)])
        )
    picture = cv2.resize(np.hstack(columns), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(PICTURE), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


def main() -> None:
    contents = [path.read_bytes() for path in PHOTOS]
    draws = Randomness(seed=0, scope="compare views").uniform("view", np.arange(COUNT), 0, DRAWS)
    print("| operation | mean | largest |\n|---|---|---|")
    for name, config in (*OPERATIONS.items(), ("the same, from the JPEG file", MOCO)):
        means, largest = [], 0
        for content in contents:
            for draw in draws:
                fast, exact = both(content, config, draw, from_file=name.endswith("file"))
                apart = np.abs(fast.astype(int) - exact)
                means.append(apart.mean())
                largest = max(largest, int(apart.max()))
        print(f"| {name} | {np.mean(means):.2f} | {largest} |", flush=True)
    draw_picture(contents, draws[:8])


if __name__ == "__main__":
    main()
