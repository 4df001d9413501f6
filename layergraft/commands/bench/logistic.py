"""Time the logistic regression against scikit-learn and Cyanure: to no worse an objective than theirs.

Same rows in float32, same threads, same penalty (lambda = 2.5e-4 / n), no intercept. Each reference runs first, with
the settings it is used with: scikit-learn's `lbfgs` at its usual tolerance, Cyanure's `auto` solver at its usual
tolerance, stopped by its own duality gap. Then ours starts from nothing and stops at the first step whose objective is
no worse. Where that takes seconds both run several times in turn, and the medians are reported. torch's full-batch
L-BFGS with several settings then runs once to the same objective, and scikit-learn's `newton-cholesky`, at its usual
tolerance, where its Hessian fits.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from layergraft.data.arrays import Labels
from layergraft.errors import UserError
from layergraft.evaluation import logistic
from layergraft.evaluation.features import Array, center_and_normalize

# (rows, features, classes, the reference).
CASES = (
    (1_300, 768, 100, "sklearn"),
    (10_000, 128, 10, "sklearn"),
    (13_000, 768, 1_000, "sklearn"),
    (1_300, 768, 100, "cyanure"),
)
_PAUSE = 0.5  # seconds before each fit: threads of BLAS that have just worked wait for more by spinning
# Settings of torch.optim.LBFGS: as it comes, and with a line search and several lengths of memory.
_LBFGS: dict[str, dict[str, Any]] = {
    "default": {},
    "strong_wolfe": {"line_search_fn": "strong_wolfe"},
    "strong_wolfe_10": {"line_search_fn": "strong_wolfe", "history_size": 10},
    "strong_wolfe_30": {"line_search_fn": "strong_wolfe", "history_size": 30},
}
_EVALUATIONS, _PATIENCE = 10_000, 60.0  # evaluations and seconds after which L-BFGS is given up
_MOST_UNKNOWNS = 8192  # of newton-cholesky
_REPEATS, _SHORT = 5, 5.0  # a case of less than so many seconds runs so often
Fitted = tuple[float, npt.NDArray[np.float64]]  # seconds, weights (D, C)


def features_like_an_encoders(rows: int, width: int, classes: int) -> tuple[Array, Labels]:
    """Clusters whose spectrum falls as an encoder's does, row-centred and L2-normalised: (N, D), (N,)."""
    random = np.random.default_rng(0)
    spectrum = (1 + np.arange(width)) ** -0.5
    labels = np.arange(rows, dtype=np.int64) % classes
    centres, spread = (random.standard_normal((n, width)) * spectrum for n in (classes, rows))
    return center_and_normalize((centres[labels] + spread).astype(np.float32)), labels


def _timed(fit: Callable[..., object], x: Array, y: Labels) -> float:
    """Seconds of a library's fit; what it warns of is its users' business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.perf_counter()
        fit(x, y)
        return time.perf_counter() - began


def _sklearn(x: Array, y: Labels, weight_decay: float, solver: str = "lbfgs") -> Fitted:
    from sklearn.linear_model import LogisticRegression

    strength = 1 / (weight_decay * len(x))
    model = LogisticRegression(C=strength, fit_intercept=False, tol=1e-4, max_iter=1000, solver=solver)
    return _timed(model.fit, x, y), np.asarray(model.coef_.T)


def _cyanure(x: Array, y: Labels, weight_decay: float, threads: int) -> Fitted:
    from cyanure.estimators import Classifier

    model = Classifier(
        loss="multiclass-logistic",
        penalty="l2",
        lambda_1=weight_decay,
        fit_intercept=False,
        tol=1e-3,
        max_iter=1000,
        n_threads=threads,
        verbose=False,
    )
    return _timed(model.fit, x, y), np.asarray(model.get_weights())


class _Reached(Exception):
    """The objective of the reference is reached, or it takes too long."""


def _lbfgs(x: Array, y: Labels, classes: int, weight_decay: float, goal: float, **settings: Any) -> float | None:
    """Seconds that torch's L-BFGS takes on the full batch to the goal; None if it does not get there."""
    features, labels = torch.from_numpy(x), torch.from_numpy(y)
    weights = torch.zeros(x.shape[1], classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=_EVALUATIONS, max_eval=_EVALUATIONS, tolerance_grad=0, tolerance_change=0, **settings
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = logistic.objective(weights, features, labels, weight_decay)
        if float(value.detach()) <= goal or time.perf_counter() - began > _PATIENCE:
            raise _Reached
        value.backward()  # type: ignore[no-untyped-call]
        return value

    began = time.perf_counter()
    try:
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    except _Reached:
        seconds = time.perf_counter() - began
        return seconds if seconds <= _PATIENCE else None
    return None


def _rivals(x: Array, y: Labels, classes: int, weight_decay: float, goal: float) -> dict[str, Any]:
    """Seconds of solvers that are there already: `lbfgs` (by settings) and `newton_cholesky`; null where one fails.

    scikit-learn's newton-cholesky holds a Hessian of (classes * features)^2 numbers, so it is left out of large cases.
    """
    time.sleep(_PAUSE)
    seconds = {name: _lbfgs(x, y, classes, weight_decay, goal, **settings) for name, settings in _LBFGS.items()}
    newton = None
    if classes * x.shape[1] <= _MOST_UNKNOWNS:
        newton, _ = _sklearn(x, y, weight_decay, "newton-cholesky")
    return {"lbfgs": seconds, "newton_cholesky": {"seconds": newton}}


def _reference(name: str, x: Array, y: Labels, weight_decay: float) -> Fitted:
    """Seconds and weights of a reference.

    Cyanure gets a process of its own, whose start does not count: it leaves OpenMP set so that it may give fewer
    threads than are asked for, in torch's copy of it, too. That slows what comes after, and MKL's QR waits for ever for
    the threads that do not come.
    """
    if name == "sklearn":
        return _sklearn(x, y, weight_decay)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_cyanure, x, y, weight_decay, torch.get_num_threads()).result()


def _case(rows: int, width: int, classes: int, reference: str) -> dict[str, Any]:
    x, y = features_like_an_encoders(rows, width, classes)
    features, labels, weight_decay = torch.from_numpy(x), torch.from_numpy(y), logistic.PUBLISHED_LAMBDA_N / rows

    def objective(weights: torch.Tensor) -> float:
        return float(logistic.objective(weights.double(), features.double(), labels, weight_decay))

    def reference_fit() -> tuple[float, torch.Tensor]:
        time.sleep(_PAUSE)
        seconds, weights = _reference(reference, x, y, weight_decay)
        return seconds, torch.from_numpy(weights)

    def our_fit(goal: float) -> tuple[float, torch.Tensor]:
        time.sleep(_PAUSE)
        began = time.perf_counter()
        steps = logistic.newton(features, labels, classes, weight_decay, logistic.TOLERANCE[torch.float32])
        weights, value = next(steps)
        while value > goal:
            weights, value = next(steps, (weights, -np.inf))
        return time.perf_counter() - began, weights

    theirs = [reference_fit()]
    goal = objective(theirs[0][1])
    ours = [our_fit(goal)]
    if theirs[0][0] < _SHORT:
        for _ in range(_REPEATS - 1):
            theirs.append(reference_fit())
            ours.append(our_fit(goal))
    return {
        "rows": rows,
        "features": width,
        "classes": classes,
        "ours": {"seconds": statistics.median(t for t, _ in ours), "objective": objective(ours[-1][1])},
        reference: {"seconds": statistics.median(t for t, _ in theirs), "objective": goal},
    } | _rivals(x, y, classes, weight_decay, goal)


def bench_logistic(quiet: bool) -> dict[str, Any]:
    """Run all cases whose reference is installed; see `layergraft.bench`."""
    missing = {name for name in ("sklearn", "cyanure") if importlib.util.find_spec(name) is None}
    if "sklearn" in missing:
        raise UserError("`bench logistic` compares with scikit-learn.", "pip install scikit-learn cyanure")
    console = Console(stderr=True, quiet=quiet, highlight=False)
    # Whoever comes first pays for starting threads and loading libraries; that is not what is compared.
    for reference in {"sklearn", "cyanure"} - missing:
        _case(200, 32, 4, reference)
    cases = []
    for rows, width, classes, reference in CASES:
        if reference in missing:
            console.print(f"{reference} is not installed: its case is skipped.")
            continue
        case = _case(rows, width, classes, reference)
        cases.append(case)
        ours, theirs = case["ours"], case[reference]
        console.print(
            f"{rows} x {width}, {classes} classes: {reference} {theirs['seconds']:.2f} s to {theirs['objective']:.6f}, "
            f"ours {ours['seconds']:.2f} s to {ours['objective']:.6f} "
            f"({theirs['seconds'] / ours['seconds']:.1f} times as fast)"
        )
    found = {"cases": cases}
    print(json.dumps(found))
    return found
