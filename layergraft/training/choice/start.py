"""Weights that a run starts from: what they make of the recipe."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import structs

from layergraft.config.encoder import EncoderConfig
from layergraft.encoders.adapt import num_heads
from layergraft.encoders.checkpoint import open_checkpoint
from layergraft.encoders.network import named_as_config
from layergraft.training.choice.networks import Network

SMALLEST_GRID = 6  # patches along a side, to which positions are resized at most
_TOLD = ("mlp_ratio", "class_token", "reg_tokens", "init_values", "global_pool")


@dataclass(frozen=True, kw_only=True)
class Start:
    """An encoder that is there already.

    Args:
        enc: the ENC.
        network: its size.
        config: the recipe's encoder, at the size of its own images.
    """

    enc: str
    network: Network
    config: EncoderConfig

    def encoder(self, side: int) -> EncoderConfig:
        """The recipe's encoder for images with a shorter side of `side` pixels (0: unknown).

        Patches stay as they are; small images are enlarged to a few patches along a side. Weights for images that are
        not square keep their size.
        """
        patch, trained = self.config.patch_size or 16, self.config.img_size
        if not side or not isinstance(trained, int):
            return self.config
        return structs.replace(self.config, img_size=min(trained, max(side // patch, SMALLEST_GRID) * patch))


def look_at_start(enc: str) -> Start:
    """Open an ENC.

    Raises:
        UserError: it cannot be read.
    """
    encoder = open_checkpoint(enc).encoder
    arguments = named_as_config(encoder.model_args)
    config = EncoderConfig(
        name=encoder.architecture.partition(".")[0],
        img_size=encoder.img_size,
        in_chans=encoder.in_chans,
        patch_size=encoder.patch_size,
        embed_dim=encoder.embed_dim,
        depth=encoder.depth,
        num_heads=num_heads(encoder),
        stem="conv" if arguments.get("stem") == "conv" else "patch",
        **{name: arguments[name] for name in _TOLD if name in arguments},
    )
    network = Network(
        name=config.name,
        width=encoder.embed_dim,
        depth=encoder.depth,
        heads=num_heads(encoder),
        side=max(encoder.input_size),
        grid=encoder.grid[0],
        decoder=(64, 1),
        lr=(0.0, 1e-3),
    )
    return Start(enc=enc, network=network, config=config)
