"""Time the logistic regression against other solvers: to no worse an objective than theirs.

Same rows in the same precision, same threads, same penalty (lambda = 2.5e-4 / n), no intercept. Each rival runs at its
usual tolerance and at a tight one (`_tight`) and ends by its own rule; then ours starts from nothing and stops at the
first step whose objective is no worse. Where the rival takes seconds both run several times in turn, and the medians
are reported: seconds of the clock and of all threads, beside the objective that each ended at. The rivals are
scikit-learn's `lbfgs` and `newton-cholesky` (where its Hessian is small), torch's L-BFGS over all rows, and Cyanure's
`auto` solver, which its own duality gap stops.

The rows are drawn from a distribution, or are features of an encoder and raw pixels of real images, as the protocols
fit them.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from layergraft.data.arrays import Labels
from layergraft.data.reading import settle
from layergraft.data.sources.open import open_source
from layergraft.encoders.checkpoint import load_encoder
from layergraft.errors import UserError
from layergraft.evaluation import logistic
from layergraft.evaluation.features import Array, center_and_normalize, extract, pixels
from layergraft.evaluation.splits import few_labels
from layergraft.runs.announce import announce

# (rows, features, classes, precision, the rival whose figures stand beside ours). The protocols fit in float64 up to
# 2^24 numbers; few labels are at the end.
CASES: tuple[tuple[int, int, int, str, str], ...] = (
    (1_300, 768, 100, "float32", "sklearn"),
    (10_000, 128, 10, "float32", "sklearn"),
    (13_000, 768, 1_000, "float32", "sklearn"),
    (1_300, 768, 100, "float32", "cyanure"),
    (5_000, 384, 10, "float64", "sklearn"),
    (500, 384, 100, "float64", "sklearn"),
)
_PAUSE = 0.5  # seconds before each fit: threads of BLAS that have just worked wait for more by spinning
_EVALUATIONS, _PATIENCE = (
    10_000,
    20.0,
)  # evaluations, and seconds of all threads, after which torch's L-BFGS is given up
_MOST_UNKNOWNS = 2048  # of newton-cholesky, whose Hessian has the square of it: with 3840 it takes 9 s a fit
_REPEATS, _SHORT = 5, 2.0  # a fit of less than so many seconds is made so often
ROWS = (100, 500, 10_000)  # of real images
_MOST_LOGITS = 2**23  # rows x features x classes up to which scikit-learn's tight tolerance takes seconds, not minutes


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One fit.

    Args:
        seconds: of the clock.
        cpu_seconds: of all threads.
        weights: of shape (D, C).
    """

    seconds: float
    cpu_seconds: float
    weights: npt.NDArray[np.floating[Any]]


Solver = Callable[[Array, Labels, int, float], Fit]
"""Fits features (N, D) and labels (N,) of so many classes with a weight decay."""


def features_like_an_encoders(rows: int, width: int, classes: int) -> tuple[Array, Labels]:
    """Clusters whose spectrum falls as an encoder's does, row-centred and L2-normalised: (N, D), (N,)."""
    random = np.random.default_rng(0)
    spectrum = (1 + np.arange(width)) ** -0.5
    labels = np.arange(rows, dtype=np.int64) % classes
    centres, spread = (random.standard_normal((n, width)) * spectrum for n in (classes, rows))
    return center_and_normalize((centres[labels] + spread).astype(np.float32)), labels


def _timed(solve: Callable[[], npt.NDArray[np.floating[Any]]]) -> Fit:
    """Call what gives weights; what a library warns of is its users' business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began, cpu_began = time.perf_counter(), time.process_time()
        weights = solve()
        return Fit(seconds=time.perf_counter() - began, cpu_seconds=time.process_time() - cpu_began, weights=weights)


def _sklearn(x: Array, y: Labels, classes: int, weight_decay: float, *, solver: str, tolerance: float) -> Fit:
    from sklearn.linear_model import LogisticRegression

    strength = 1 / (weight_decay * len(x))
    model = LogisticRegression(C=strength, fit_intercept=False, tol=tolerance, max_iter=10_000, solver=solver)
    return _timed(lambda: np.asarray(model.fit(x, y).coef_.T))


def _cyanure_here(x: Array, y: Labels, weight_decay: float, tolerance: float, threads: int) -> Fit:
    from cyanure.estimators import Classifier

    model = Classifier(
        loss="multiclass-logistic",
        penalty="l2",
        lambda_1=weight_decay,
        fit_intercept=False,
        tol=tolerance,
        max_iter=1000,
        n_threads=threads,
        verbose=False,
    )
    return _timed(lambda: np.asarray(model.fit(x, y).get_weights()))


def _cyanure(x: Array, y: Labels, classes: int, weight_decay: float, *, tolerance: float, process: Executor) -> Fit:
    """Fit in a process of its own.

    Cyanure leaves OpenMP set so that it may give fewer threads than are asked for, in torch's copy of it, too. That
    slows what comes after, and MKL's QR waits for ever for the threads that do not come.
    """
    return process.submit(_cyanure_here, x, y, weight_decay, tolerance, torch.get_num_threads()).result()


class _OutOfTime(Exception):
    """L-BFGS takes too long."""


def _torch_lbfgs(
    x: Array, y: Labels, classes: int, weight_decay: float, *, history_size: int, gradient: float, change: float
) -> Fit:
    """torch's L-BFGS with its line search, over all rows at once; given up after a while, at the weights of then."""
    features, labels = torch.from_numpy(x), torch.from_numpy(y)
    weights = torch.zeros(x.shape[1], classes, dtype=features.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=_EVALUATIONS,
        max_eval=_EVALUATIONS,
        tolerance_grad=gradient,
        tolerance_change=change,
        history_size=history_size,
        line_search_fn="strong_wolfe",
    )

    def solve() -> npt.NDArray[np.floating[Any]]:
        began = time.process_time()

        def closure() -> torch.Tensor:
            if time.process_time() - began > _PATIENCE:
                raise _OutOfTime
            optimizer.zero_grad()
            value = logistic.objective(weights, features, labels, weight_decay)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with suppress(_OutOfTime):
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        return weights.detach().numpy()

    return _timed(solve)


def _rivals(reference: str, unknowns: int, precision: str, process: Executor) -> dict[str, Solver]:
    """Name -> solver.

    Args:
        reference: `cyanure` has a case of its own, as it needs a process of its own.
        unknowns: weights of the case; where they are many, newton-cholesky is left out.
        precision: of the rows; how tight a tolerance makes sense depends on it.
        process: for Cyanure.
    """
    if reference == "cyanure":
        cyanure = partial(_cyanure, process=process)
        return {"cyanure": partial(cyanure, tolerance=1e-3), "cyanure_tight": partial(cyanure, tolerance=1e-6)}
    tight = 1e-8 if precision == "float32" else 1e-12
    rivals: dict[str, Solver] = {
        "sklearn": partial(_sklearn, solver="lbfgs", tolerance=1e-4),
        "sklearn_tight": partial(_sklearn, solver="lbfgs", tolerance=tight),
    }
    for history_size in (10, 100):
        lbfgs = partial(_torch_lbfgs, history_size=history_size)
        rivals[f"torch_lbfgs_{history_size}"] = partial(lbfgs, gradient=1e-7, change=1e-9)
        rivals[f"torch_lbfgs_{history_size}_tight"] = partial(lbfgs, gradient=tight / 10, change=tight / 1e4)
    if unknowns <= _MOST_UNKNOWNS:
        rivals["newton_cholesky"] = partial(_sklearn, solver="newton-cholesky", tolerance=1e-4)
        rivals["newton_cholesky_tight"] = partial(_sklearn, solver="newton-cholesky", tolerance=tight)
    return rivals


def _ours(x: Array, y: Labels, classes: int, weight_decay: float, *, goal: float) -> Fit:
    """The first step whose objective is no worse than the goal, or the optimum within our tolerance."""
    features, labels = torch.from_numpy(x), torch.from_numpy(y)
    return _timed(lambda: logistic.fit(features, labels, classes, weight_decay * len(x), goal=goal).numpy())


def _compare(solver: Solver, x: Array, y: Labels, classes: int) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of a rival, and of ours to no worse an objective, as often as the rival ran and in turn with it."""
    weight_decay = logistic.PUBLISHED_LAMBDA_N / len(x)
    features, labels = torch.from_numpy(x).double(), torch.from_numpy(y)

    def objective(fit: Fit) -> float:
        return float(logistic.objective(torch.from_numpy(fit.weights).double(), features, labels, weight_decay))

    def paused(fit_once: Solver) -> Fit:
        if torch.get_num_threads() > 1:
            time.sleep(_PAUSE)
        return fit_once(x, y, classes, weight_decay)

    def figures(fits: list[Fit]) -> dict[str, float]:
        return {
            "seconds": statistics.median(fit.seconds for fit in fits),
            "cpu_seconds": statistics.median(fit.cpu_seconds for fit in fits),
            "objective": objective(fits[-1]),
        }

    theirs = [paused(solver)]
    solve_to_goal = partial(_ours, goal=objective(theirs[0]))
    ours = [paused(solve_to_goal)]
    while theirs[0].seconds < _SHORT and len(theirs) < _REPEATS:
        theirs.append(paused(solver))
        ours.append(paused(solve_to_goal))
    return figures(theirs), figures(ours)


def _real_cases(encoder: str, data: str, rows: Sequence[int]) -> Iterator[tuple[str, Array, Labels, int]]:
    """Features of an encoder, then raw pixels, of so many labelled images: (name, (N, D), labels, classes)."""
    loaded = load_encoder(encoder)
    source = settle(open_source(data), loaded.in_chans, announce, loaded.reads, repr(encoder)).labelled
    labels, classes = source.selected_labels, len(source.classes)
    chosen = [
        few_labels(labels, source.keys, source.classes, count // classes, split=0, scope="bench") for count in rows
    ]
    needed = np.unique(np.concatenate(chosen))
    part = source.subset(source.keys[needed])
    features = center_and_normalize(extract(loaded, part, "cls"))
    floor = np.nan_to_num(pixels(part, loaded.img_size, loaded.in_chans))
    for name, array in (("features", features), ("pixels", floor)):
        for images in chosen:
            yield name, array[np.searchsorted(needed, images)].astype(np.float64), labels[images], classes


def _compare_on_images(
    encoder: str, data: str, rows: Sequence[int], missing: set[str], process: Executor, console: Console
) -> list[dict[str, Any]]:
    """Every rival's figures beside ours on real images, and ours up to our own tolerance."""
    cases = []
    for name, x, y, classes in _real_cases(encoder, data, rows):
        numbers = x.shape[1] * classes
        rivals = _rivals("sklearn", numbers, "float64", process)
        rivals = {key: rival for key, rival in rivals.items() if not (key.startswith("torch") and "tight" in key)}
        if x.size * classes > _MOST_LOGITS:
            del rivals["sklearn_tight"]
        if "cyanure" not in missing:
            rivals |= _rivals("cyanure", numbers, "float64", process)
        console.print(f"{name}, {len(x)} x {x.shape[1]}, {classes} classes: seconds, of all threads, objective")
        figures: dict[str, Any] = {}
        for rival, solver in rivals.items():
            theirs, ours = _compare(solver, x, y, classes)
            figures[rival] = theirs | {"ours": ours}
            console.print(f"  {rival}: {_text(theirs)}; ours: {_text(ours)} ({_ratios(theirs, ours)})")
        to_optimum, _ = _compare(partial(_ours, goal=-np.inf), x, y, classes)
        console.print(f"  ours to the optimum: {_text(to_optimum)}")
        shape = {"images": name, "rows": len(x), "features": x.shape[1], "classes": classes, "precision": "float64"}
        cases.append(shape | {"ours": to_optimum, "rivals": figures})
    return cases


def bench_logistic(encoder: str, data: str | None, images: list[int] | None, quiet: bool) -> dict[str, Any]:
    """Run all cases whose reference is installed; see `layergraft.bench`."""
    missing = {name for name in ("sklearn", "cyanure") if importlib.util.find_spec(name) is None}
    if "sklearn" in missing:
        raise UserError("`bench logistic` compares with scikit-learn.", "pip install scikit-learn cyanure")
    if images is not None and data is None:
        raise UserError("--rows are of real images.", "Give --encoder runs/demo --data builtin:fashion-canvas.")
    console = Console(stderr=True, quiet=quiet, highlight=False)
    cases = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        # Whoever comes first pays for starting threads and loading libraries; that is not what is compared.
        x, y = features_like_an_encoders(200, 32, 4)
        for reference in {"sklearn", "cyanure"} - missing:
            for solver in _rivals(reference, 128, "float32", process).values():
                solver(x, y, 4, logistic.PUBLISHED_LAMBDA_N / len(x))
        _ours(x, y, 4, logistic.PUBLISHED_LAMBDA_N / len(x), goal=0.0)
        if data is not None:
            results = {"cases": _compare_on_images(encoder, data, images or ROWS, missing, process, console)}
            print(json.dumps(results))
            return results
        for rows, width, classes, precision, reference in CASES:
            if reference in missing:
                console.print(f"{reference} is not installed: its case is skipped.")
                continue
            console.print(f"{rows} x {width}, {classes} classes, {precision}: seconds, of all threads, objective")
            x, y = features_like_an_encoders(rows, width, classes)
            x = x.astype(precision)
            case: dict[str, Any] = {"rows": rows, "features": width, "classes": classes, "precision": precision}
            case["rivals"] = {}
            for name, solver in _rivals(reference, width * classes, precision, process).items():
                theirs, ours = _compare(solver, x, y, classes)
                case["rivals"][name] = theirs | {"ours": ours}
                console.print(f"  {name}: {_text(theirs)}; ours: {_text(ours)} ({_ratios(theirs, ours)})")
            rival = case["rivals"][reference]
            cases.append(case | {"ours": rival["ours"], reference: {key: rival[key] for key in rival["ours"]}})
    results = {"cases": cases}
    print(json.dumps(results))
    return results


def _text(figures: dict[str, float]) -> str:
    return f"{figures['seconds']:.4f} s, {figures['cpu_seconds']:.4f} s, {figures['objective']:.9f}"


def _ratios(theirs: dict[str, float], ours: dict[str, float]) -> str:
    seconds, cpu_seconds = (theirs[key] / ours[key] for key in ("seconds", "cpu_seconds"))
    return f"{seconds:.1f} times as fast, {cpu_seconds:.1f} in time of all threads"
