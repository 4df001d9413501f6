"""Products of linear layers by oneDNN: as exact as torch's, and all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from layergraft.config.encoder import EncoderConfig
from layergraft.encoders import products as module
from layergraft.encoders.products import (
    OneDnnLinear,
    Products,
    has_onednn,
    products,
    products_of_run,
    torch_alone,
)
from layergraft.encoders.vit import create_encoder
from layergraft.errors import UserError

CPU = torch.device("cpu")
EVA = EncoderConfig(name="eva02_tiny_patch14_224", img_size=28, embed_dim=32, depth=2, num_heads=2)
TINY = EncoderConfig(name="vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this torch has no oneDNN")


def gradients(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Of a loss that every parameter counts in."""
    network.zero_grad()
    network(images).square().mean().backward()
    return [p.grad.double() for p in network.parameters() if p.grad is not None]


@needs_onednn
def test_gradients_are_as_exact_as_torchs() -> None:
    """Beside float64: both round alike; a wrong transposition would be wrong by its whole size."""
    encoder = create_encoder(TINY, 0)
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    exact = gradients(copy.deepcopy(encoder).double(), images)
    by_torch = gradients(encoder, images)
    with OneDnnLinear():
        by_onednn = gradients(encoder, images)
    assert len(exact) == len(by_torch) == len(by_onednn) > 20

    def error(found: list[Tensor]) -> float:
        return max(float((f - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True))

    assert error(by_onednn) < 3 * max(error(by_torch), 1e-6)


@needs_onednn
@pytest.mark.parametrize(("config", "recompute"), [(TINY, False), (TINY, True), (EVA, False)])
def test_no_product_of_a_layer_is_left_to_torch(config: EncoderConfig, recompute: bool) -> None:
    """Forwards, backwards, where a block is computed again for its gradient, and where timm names a layer's weight."""
    encoder = create_encoder(config, 0)
    encoder.recompute = recompute
    images = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0))

    def names() -> dict[str, int]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            gradients(encoder, images)
        return {event.key: event.count for event in profile.key_averages()}

    plain = names()
    with OneDnnLinear():
        found = names()
    assert plain["aten::addmm"]
    assert plain["aten::mm"]
    assert not found.keys() & {"aten::addmm", "aten::mm"}


@needs_onednn
@pytest.mark.parametrize("shape", [(7, 6), (2, 5, 6), (1, 1, 6), (3, 2, 2, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_any_shape(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4, bias=bias), torch.randn(*reversed(shape)).permute(*reversed(range(len(shape))))
    results = []
    for context in (products("torch", CPU), OneDnnLinear):
        seen = x.clone().requires_grad_()
        with context():
            out = layer(seen)
            found = torch.autograd.grad(out.sin().sum(), [seen, *layer.parameters()])
            with torch.no_grad():
                results.append([out, *found, layer(x)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@needs_onednn
@pytest.mark.parametrize(
    "call",
    [
        lambda: nn.Linear(4, 3).double()(torch.ones(2, 4, dtype=torch.float64)),
        lambda: nn.Linear(4, 3)(torch.ones(4)),
        lambda: nn.functional.linear(input=torch.ones(2, 4), weight=torch.ones(3, 4)),
        lambda: nn.functional.linear(torch.ones(2, 4), torch.ones(4)),
        lambda: nn.functional.linear(torch.ones(2, 4), torch.ones(3, 4), torch.arange(6.0)[::2]),
        lambda: nn.functional.linear(torch.ones(2, 4), torch.ones(3, 4), torch.ones(1).expand(3)),
        lambda: nn.Linear(4, 3)(torch.ones(2, 0, 4)),
        lambda: nn.functional.linear(torch.ones(2, 4), torch.ones(0, 4)),
    ],
)
def test_what_it_does_not_take_is_torchs(call: Callable[[], Tensor]) -> None:
    torch.manual_seed(0)
    expected = call()
    torch.manual_seed(0)
    with OneDnnLinear():
        assert torch.equal(call(), expected)


@needs_onednn
def test_autocast_stays_autocast() -> None:
    layer, x = nn.Linear(4, 3), torch.ones(2, 4)
    with OneDnnLinear(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("faster", [True, False])
def test_auto_takes_them_where_they_are_faster(monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda: faster)
    assert (products("auto", CPU) is OneDnnLinear) == faster
    assert products("auto", torch.device("cuda")) is not OneDnnLinear
    assert products("torch", CPU) is not OneDnnLinear


def test_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="this is cuda"):
        products("onednn", torch.device("cuda"))
    monkeypatch.setattr(module, "has_onednn", lambda: False)
    with pytest.raises(UserError, match="this torch has none"):
        products("onednn", CPU)


def test_told_by_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """One that has the instructions, of a maker whose processors MKL keeps from them."""
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "Path", lambda _: cpuinfo)
    monkeypatch.setattr(module, "has_onednn", lambda: True)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    for maker, capability, faster in (
        ("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False),
    ):  # fmt: skip
        cpuinfo.write_text(f"vendor_id : {maker}\n")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        module.onednn_is_faster.cache_clear()
        assert module.onednn_is_faster() == faster
    module.onednn_is_faster.cache_clear()


@pytest.mark.parametrize("choice", ["torch", "onednn", "auto"])
def test_a_runs_encoder_is_looked_at_on_any_machine(monkeypatch: pytest.MonkeyPatch, choice: Products) -> None:
    monkeypatch.setattr(module, "has_onednn", lambda: False)
    for device in (CPU, torch.device("cuda")):
        assert products_of_run(choice, device) is not OneDnnLinear


@needs_onednn
def test_gradients_image_by_image_are_torchs() -> None:
    """`torch.func` takes tensors apart that look like ordinary ones."""
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 3), torch.randn(5, 4)

    def loss(weight: Tensor, row: Tensor) -> Tensor:
        return torch.nn.functional.linear(row[None], weight, layer.bias).square().sum()

    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
    expected = gradient(layer.weight.detach(), x)
    with OneDnnLinear(), torch_alone():
        assert torch.equal(gradient(layer.weight.detach(), x), expected)
