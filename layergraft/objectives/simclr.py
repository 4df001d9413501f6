"""SimCLR (Chen et al., ICML 2020): two views, negatives from both, no momentum encoder."""

from __future__ import annotations

from torch import nn

from layergraft.config.objectives import SimclrConfig
from layergraft.data.batch import Batch
from layergraft.encoders.batchnorm import Pending, collect_pending
from layergraft.encoders.distributed import gather
from layergraft.encoders.vit import Encoder
from layergraft.objectives.base import Features, Losses, Objective, Progress
from layergraft.objectives.heads import mlp_head
from layergraft.objectives.losses import at_least_float32, nt_xent_loss
from layergraft.objectives.views import VIEWS, encode_views


class Simclr(Objective):
    """Each view against all others of the batch, by `nt_xent_loss` (section 2.1).

    Args:
        config: temperature and head.
        encoder: the encoder that it trains.
    """

    def __init__(self, config: SimclrConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.heads["projector"] = mlp_head(encoder.embed_dim, config.projector)

    def zero_gradient_parameters(self, encoder: Encoder) -> list[nn.Parameter]:
        """A shift of all features: the projector's first BatchNorm takes it away."""
        return encoder.final_bias

    def encode(self, encoder: Encoder, batch: Batch) -> Features:
        return encode_views(encoder, batch, VIEWS, self.config.keep_ratio)

    def losses(self, features: Features, progress: Progress) -> tuple[Losses, Pending]:
        first, second = (at_least_float32(self.heads["projector"](features[view])) for view in VIEWS)
        (every_first, offset), (every_second, _) = gather(first), gather(second)
        loss = nt_xent_loss(first, second, every_first, every_second, self.config.temperature, offset)
        return {"loss": loss}, collect_pending(self)
