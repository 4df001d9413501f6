"""Start Fabric: on a CPU, a GPU, or as one of several processes of torchrun, by the same call."""

from __future__ import annotations

import os

from lightning_fabric import Fabric

from layergraft.config.recipe import EngineConfig


def launch(engine: EngineConfig) -> Fabric:
    """Devices, precision and process group of this process."""
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="auto",
        devices=devices,
        num_nodes=max(1, world // devices),
        strategy="ddp" if world > 1 else "auto",
        precision=engine.precision,
    )
    fabric.launch()
    return fabric
