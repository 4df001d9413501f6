"""Two sets of colour images that anyone can install, laid out as a user's own folder by class would be.

    python tools/own_images.py emoji --out images/emoji      # npm: emoji-datasource-apple, and so on
    python tools/own_images.py stamps --out images/stamps    # Debian: apt install tuxpaint-stamps-default

writes OUT/train and OUT/val with a folder a class. Emoji: one vendor is the test set, the others train, and the class
is the category. Stamps: the class is the folder that Tux Paint keeps them in, and every third image is tested on.

    python tools/own_images.py bench --images images/emoji --out runs/own --minutes 20 --seeds 3

trains `layergraft train --data OUT/train --minutes 20` once a seed, and prints for 1, 5 and 10 labels a class the gain
over raw pixels and over random weights: mean and two standard errors over the splits; then the time that was told and
the time that it took. What follows is handed to `train`, so that a variant is compared at the same time:

    python tools/own_images.py emoji --out images/choose --test twitter --leave-out facebook
    python tools/own_images.py bench --images images/choose --out runs/keep25 --stages.graft.objective.keep_ratio 0.25

Nothing is chosen on the images that are reported: a default is chosen with another vendor held out, as here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

VENDORS = ("apple", "google", "twitter", "facebook")
STAMPS = Path("/usr/share/tuxpaint/stamps")
FEWEST = 24  # images of a class: two thirds train, and ten shots need more than ten
SHOTS = ("1", "5", "10")
FLOORS = ("pixels", "random")


def fetch(vendor: str, folder: Path) -> Path:
    """The npm package of a vendor's emoji, by the ordinary client; kept, so that it is fetched once."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = sorted(folder.glob(f"emoji-datasource-{vendor}-*.tgz"))
    if not kept:
        words = ["npm", "pack", "--silent", f"emoji-datasource-{vendor}"]
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        kept = sorted(folder.glob(f"emoji-datasource-{vendor}-*.tgz"))
    return kept[-1]


def lay_out_emoji(packages: dict[str, Path], out: Path, test: str) -> Counter[str]:
    """Write the emoji that every vendor draws as OUT/train|val/CATEGORY/VENDOR-NAME.png; skin tones are left out."""
    counts: Counter[str] = Counter()
    for vendor, package in packages.items():
        with tarfile.open(package) as archive:
            listed = archive.extractfile("package/emoji.json")
            assert listed is not None
            drawn = [e for e in json.load(listed) if all(e[f"has_img_{name}"] for name in VENDORS)]
            category = {e["image"]: e["category"].replace(" & ", "-").lower() for e in drawn}
            for member in archive:
                where, _, name = member.name.rpartition("/")
                if where != f"package/img/{vendor}/64" or category.get(name, "component") == "component":
                    continue
                part = "val" if vendor == test else "train"
                content = archive.extractfile(member)
                assert content is not None
                target = out / part / category[name] / f"{vendor}-{name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
                counts[part] += 1
    return counts


def lay_out_stamps(root: Path, out: Path) -> Counter[str]:
    """Copy the PNG stamps of classes with enough of them to OUT/train|val/CLASS; a hash of the path says which part."""
    counts: Counter[str] = Counter()
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        images = sorted(folder.rglob("*.png"))
        if len(images) < FEWEST:
            continue
        images.sort(key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())
        for index, path in enumerate(images):
            part = "val" if index % 3 == 0 else "train"
            target = out / part / folder.name / "-".join(path.relative_to(folder).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            counts[part] += 1
    return counts


def gains(results: Path, encoder: str, floor: str) -> dict[str, tuple[float, float]]:
    """Shots -> (mean, two standard errors) of accuracy less that of a floor, in percent, over the same splits."""
    rows = json.loads(results.read_text(encoding="utf-8"))
    values: dict[tuple[str, str, str], float] = {
        (row["encoder"], row["shots"], row["split"]): row["value"]
        for row in rows
        if row["protocol"] == "logistic" and row["split"].isdecimal()
    }
    by_shots = {}
    for shots in SHOTS:
        splits = [split for name, many, split in values if name == encoder and many == shots]
        differences = [values[encoder, shots, split] - values[floor, shots, split] for split in splits]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        by_shots[shots] = (statistics.mean(differences), 2 * error)
    return by_shots


def bench(images: Path, out: Path, minutes: float, seeds: range, words: list[str]) -> None:
    """Train with nothing but the folder and the time, once a seed, and print the gains."""
    for seed in seeds:
        run = out / f"seed{seed}"
        command = [sys.executable, "-m", "layergraft", "train", "--data", str(images / "train"), "--out", str(run)]
        command += ["--minutes", str(minutes), "--seed", str(seed), "--evaluate.splits", "20", *words]
        subprocess.run(command, check=True)  # noqa: S603
        rows = json.loads((run / "results.json").read_text(encoding="utf-8"))
        # The run's encoder: the last stage's, not a momentum copy of it.
        encoder = [row["encoder"] for row in rows if row["encoder"] not in FLOORS and "/" not in row["encoder"]][-1]
        for floor in FLOORS:
            line = [
                f"{k} shots {mean:+.1f} ± {error:.1f}"
                for k, (mean, error) in gains(run / "results.json", encoder, floor).items()
            ]
            print(f"{images.name} seed {seed}: {encoder} over {floor}: {', '.join(line)}", flush=True)
        time = json.loads((run / "run.json").read_text(encoding="utf-8"))["time"]
        told, taken = (sum(part["stages"].values()) + part["evaluation"] + part["analyses"] for part in time.values())
        print(
            f"{images.name} seed {seed}: {told:.0f} s told, {taken:.0f} s taken ({taken / told - 1:+.0%})", flush=True
        )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("what", choices=("emoji", "stamps", "bench"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packages", type=Path, default=Path("images/npm"), help="where the npm packages are kept")
    parser.add_argument("--test", choices=VENDORS, default="facebook", help="the vendor that is tested on")
    parser.add_argument("--leave-out", choices=VENDORS, nargs="*", default=[], help="vendors that take no part")
    parser.add_argument("--stamps", type=Path, default=STAMPS, help="the folder of the Debian package")
    parser.add_argument("--images", type=Path, help="for bench: what emoji or stamps has written")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seeds", type=int, default=1, help="for bench: how many runs")
    parser.add_argument("--first-seed", type=int, default=0)
    arguments, words = parser.parse_known_args()
    if arguments.what == "bench":
        if arguments.images is None:
            parser.error("bench needs --images")
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        bench(arguments.images, arguments.out, arguments.minutes, seeds, words)
        return
    if words:
        parser.error(f"unknown: {' '.join(words)}")
    if (arguments.out / "train").exists():
        parser.error(f"{arguments.out / 'train'} is there already")
    if arguments.what == "emoji":
        vendors = [vendor for vendor in VENDORS if vendor not in arguments.leave_out]
        counts = lay_out_emoji(
            {name: fetch(name, arguments.packages) for name in vendors}, arguments.out, arguments.test
        )
    else:
        if not arguments.stamps.is_dir():
            parser.error(f"{arguments.stamps} is not there: apt install tuxpaint-stamps-default, or --stamps FOLDER")
        counts = lay_out_stamps(arguments.stamps, arguments.out)
    print(", ".join(f"{count} {part}" for part, count in counts.items()))


if __name__ == "__main__":
    main()
