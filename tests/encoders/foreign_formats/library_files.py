"""Models of other libraries, small and with weights that hide no mistake, and what layergraft reads of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import assert_close
from torch import Tensor, nn

from layergraft.encoders.checkpoint import Checkpoint, open_checkpoint

TOLERANCE = 1e-4


def perturbed(model: Any, scale: float = 0.1) -> Any:
    """Fresh norms, tokens and biases are zeros and ones, and would hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def images(height: int = 32, width: int | None = None, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, height, width or height, generator=generator)


@torch.no_grad()
def tokens(checkpoint: Checkpoint, pixels: Tensor) -> Tensor:
    """All tokens behind the final norm."""
    encoder = checkpoint.encoder
    return encoder.norm(encoder.run_blocks(encoder.tokens(pixels), rotation=encoder.rotation(pixels))[0])


@torch.no_grad()
def assert_reads(
    address: Path | str, pixels: Tensor, expected_tokens: Tensor | None = None, feature: Tensor | None = None
) -> Checkpoint:
    """Open an ENC and compare it with the library's own forward."""
    checkpoint = open_checkpoint(address)
    if expected_tokens is not None:
        assert_close(tokens(checkpoint, pixels), expected_tokens, TOLERANCE)
    if feature is not None:
        assert_close(checkpoint.encoder(pixels), feature, TOLERANCE)
    return checkpoint


def said(checkpoint: Checkpoint) -> str:
    return "\n".join(checkpoint.notes)


def save(content: nn.Module | dict[str, Any], path: Path) -> Path:
    """A file with what a module, or a training loop, keeps."""
    torch.save(content.state_dict() if isinstance(content, nn.Module) else content, path)
    return path
