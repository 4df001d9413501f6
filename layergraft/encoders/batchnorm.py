"""BatchNorm over the global batch whose buffers change only when a step is accepted.

torch's SyncBatchNorm refuses CPU tensors and updates its buffers in `forward`, where a step that is thrown away would
leave its trace. Names of parameters and buffers are torch's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layergraft.encoders.distributed import sum_over_processes, world_size

Pending = dict[str, Tensor]


class BatchNorm(nn.Module):
    """Batch normalisation of (N, D) or (N, D, H, W) over all processes.

    Args:
        features: D.
        affine: whether there is a learned scale and shift.
        eps: added to the variance.
        momentum: of the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, features: int, *, affine: bool = True, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.pending: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        mean, var, batches = self.pending or (self.running_mean, self.running_var, self.num_batches_tracked)
        mean, var = mean.clone(), var.clone()
        if world_size() > 1:
            out = self._synchronised(x, mean, var)
        else:
            out = nn.functional.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)
        self.pending = (mean, var, batches + 1)
        return out

    def _synchronised(self, x: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
        """Two passes, mean first: sums of squares would lose digits. In fp32 at least, as torch's own."""
        given, x = x.dtype, x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        rest = [dim for dim in range(x.ndim) if dim != 1]
        shape = [-1, *(1 for _ in rest[1:])]
        count = x.numel() // x.shape[1] * world_size()
        mean = sum_over_processes(x.sum(rest)) / count
        centred = x - mean.view(shape)
        var = sum_over_processes(centred.square().sum(rest)) / count
        with torch.no_grad():
            running_mean.lerp_(mean.detach(), self.momentum)
            running_var.lerp_(var.detach() * (count / max(count - 1, 1)), self.momentum)
        out = centred * torch.rsqrt(var + self.eps).view(shape)
        if self.weight is not None and self.bias is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(given)


def collect_pending(module: nn.Module) -> Pending:
    """Take the new buffers of every BatchNorm below a module, by buffer name."""
    pending: Pending = {}
    for name, part in module.named_modules():
        if isinstance(part, BatchNorm) and part.pending is not None:
            for buffer, value in zip(("running_mean", "running_var", "num_batches_tracked"), part.pending, strict=True):
                pending[f"{name}.{buffer}"] = value
            part.pending = None
    return pending


def apply_pending(module: nn.Module, pending: Pending) -> None:
    """Put buffers that `collect_pending` took into their places."""
    buffers = dict(module.named_buffers())
    for name, value in pending.items():
        buffers[name].copy_(value)
