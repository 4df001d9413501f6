"""Products of linear layers by oneDNN, where those that torch takes leave half of the processor unused.

torch multiplies fp32 matrices by MKL, which on AMD's processors works with 256 bits even where they have 512 (AVX-512).
oneDNN, which torch brings along for convolutions, uses them: products are then 2.2 times as fast. Both compute in fp32;
they sum in another order.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from layergraft.errors import UserError

Products = Literal["torch", "onednn", "auto"]
_PLAIN = (Tensor, nn.Parameter)


def has_onednn() -> bool:
    """Whether this torch multiplies ordinary tensors by oneDNN."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN has kernels for this processor that MKL keeps from it: one of AMD's with AVX-512.

    Told by the processor's name, not by a trial: every start of a run must come to the same answer.
    """
    mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if not (mkl and has_onednn()):
        return False
    file = Path("/proc/cpuinfo")
    name = file.read_text() if file.is_file() else platform.processor()
    return "AuthenticAMD" in name and torch.backends.cpu.get_cpu_capability() == "AVX512"


def products(choice: Products, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """What gives the context in which a network is computed, its gradient too.

    Args:
        choice: `auto` takes oneDNN's on a CPU where they are faster, else torch's.
        device: that computes.

    Raises:
        UserError: oneDNN is asked for where there is none.
    """
    if choice == "onednn" and not _possible(device):
        where = "this torch has none" if device.type == "cpu" else f"this is {device.type}"
        raise UserError(f"engine.products onednn is for a CPU and a torch with oneDNN; {where}.", "Set it to auto.")
    chosen = choice == "onednn" or (choice == "auto" and device.type == "cpu" and onednn_is_faster())
    return OneDnnLinear if chosen else nullcontext


def choice_here(choice: Products, device: torch.device) -> Products:
    """`engine.products` of a run where its encoder is now, perhaps on another machine: torch's for want of others.

    Args:
        choice: of the run.
        device: that computes.
    """
    return "torch" if choice == "onednn" and not _possible(device) else choice


def products_of_run(choice: Products, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """`products` for what looks at a run's encoder: see `choice_here`.

    Args:
        choice: `engine.products` of the run.
        device: that computes.
    """
    return products(choice_here(choice, device), device)


def _possible(device: torch.device) -> bool:
    return device.type == "cpu" and has_onednn()


class OneDnnLinear(TorchFunctionMode):
    """Within it, linear layers of fp32 tensors on a CPU are computed by oneDNN, forwards and backwards.

    What autocast casts, and tensors split over processes, are left to torch.
    """

    entered: ClassVar[int] = 0
    paused: ClassVar[bool] = False

    def __enter__(self) -> OneDnnLinear:
        OneDnnLinear.entered += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        OneDnnLinear.entered -= 1
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # timm names weight and bias where queries alone have one; nobody names the input.
        if func is F.linear and args and not OneDnnLinear.paused and _fits(*args, **kwargs):
            return _linear(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def torch_alone() -> Iterator[None]:
    """Around what only torch's own products can do, as gradients image by image (`torch.func.vmap`)."""
    before, OneDnnLinear.paused = OneDnnLinear.paused, True
    try:
        yield
    finally:
        OneDnnLinear.paused = before


def once_and_again() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts of what is computed now, and again for its gradient, when torch has left the mode for a while."""
    return nullcontext(), OneDnnLinear() if OneDnnLinear.entered else nullcontext()


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN takes a layer's input (…, in), weight (out, in) and bias as they are."""
    if type(x) not in _PLAIN or type(weight) not in _PLAIN:
        return False
    floats = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    if not floats or x.ndim < 2 or weight.ndim != 2 or torch.is_autocast_enabled("cpu"):
        return False
    # It refuses matrices without numbers, and reads a bias as if its numbers lay side by side.
    return (
        x.numel() > 0 and weight.numel() > 0 and (bias is None or (bias.is_contiguous() and len(bias) == len(weight)))
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    needed = any(tensor is not None and tensor.requires_grad for tensor in (x, weight, bias))
    if needed and torch.is_grad_enabled():
        # torch's `apply` has no types.
        return _Linear.apply(x, weight, bias)  # type: ignore[no-any-return]
    return _product(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, in), weight (out, in), bias (out) -> (…, out)."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class _Linear(torch.autograd.Function):
    """A linear layer whose gradient is computed by oneDNN as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.T) if of_x else None,
            _product(rows.T, x.flatten(0, -2).T) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
