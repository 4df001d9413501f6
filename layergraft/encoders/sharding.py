"""Parameters that are split over processes (FSDP2): their local shards, their full values, and back.

torch.distributed.checkpoint.state_dict (torch 2.14) does not serve here: `get_optimizer_state_dict` before the first
step runs one to make the moments, which leaves their step count at 1, and stages are saved before their first step;
`set_optimizer_state_dict` refuses states by index, as checkpoints have them; the anchor is no state of a module.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from layergraft.encoders.partial_block import BLOCKS


def local(tensor: Tensor) -> Tensor:
    """This process's shard, or the tensor itself where it is not split."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, put together on its device where it is split; all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full(value: Any, keep: bool = True) -> Any:
    """Nested dicts and lists with every split tensor put together on the host; all processes must call it.

    Args:
        value: what holds split tensors.
        keep: whether this process wants them; one that does not only takes part, and gets None.
    """
    if isinstance(value, DTensor):
        together = whole(value)  # one at a time: the device need not hold them all
        return together.cpu() if keep else None
    if isinstance(value, dict):
        return {key: full(part, keep) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [full(part, keep) for part in value]
    return value


def like(value: Tensor, reference: Tensor) -> Tensor:
    """A full tensor, split as the reference is where both have the same shape."""
    value = value.to(reference.device)
    if isinstance(reference, DTensor) and value.shape == reference.shape:
        return distribute_tensor(value, reference.device_mesh, reference.placements, src_data_rank=None)
    return value


@torch.no_grad()
def load_full(module: nn.Module, state: dict[str, Tensor]) -> None:
    """`load_state_dict` of full tensors into a module whose parameters may be split."""
    present = module.state_dict()
    split = {name: like(value, present[name]) if name in present else value for name, value in state.items()}
    module.load_state_dict(split)


def split_parameters(module: nn.Module, device: torch.device) -> None:
    """Split a module's parameters over all processes, transformer blocks one by one."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for part in module.modules():
        if isinstance(part, BLOCKS):
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
