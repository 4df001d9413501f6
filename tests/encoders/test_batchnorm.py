"""BatchNorm over several processes computes what torch's own computes in one."""

from __future__ import annotations

import pytest
import torch

from layergraft.encoders import batchnorm
from layergraft.encoders.batchnorm import BatchNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_several_processes_give_what_one_gives(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in 16 bits give rows in 16 bits; statistics and buffers stay in fp32, the rows that come out do not."""
    torch.manual_seed(0)
    rows = (3 + torch.randn(64, 8)).to(dtype)
    alone, together = BatchNorm(8).train(), BatchNorm(8).train()
    if dtype == torch.float64:
        alone, together = alone.double(), together.double()
    expected = alone(rows)
    # Two processes with the same rows: sums and counts are twice as large, means are equal.
    monkeypatch.setattr(batchnorm, "world_size", lambda: 2)
    monkeypatch.setattr(batchnorm, "sum_over_processes", lambda value: 2 * value)
    found = together(rows)
    assert found.dtype == expected.dtype == dtype
    tolerance = (
        {"atol": 2e-2, "rtol": 1e-2} if dtype in (torch.bfloat16, torch.float16) else {"atol": 1e-5, "rtol": 1e-5}
    )
    torch.testing.assert_close(found, expected, **tolerance)
    assert together.pending is not None
    assert alone.pending is not None
    mean, var = together.pending[:2]
    torch.testing.assert_close(mean, alone.pending[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(var, alone.pending[1], atol=1e-2, rtol=1e-2)  # of 128 rows instead of 64
