"""VICReg (Bardes et al., ICLR 2022): invariance, variance and covariance of two views; no negatives, no teacher."""

from __future__ import annotations

from torch import nn

from layergraft.config.objectives import VicregConfig
from layergraft.data.batch import Batch
from layergraft.encoders.batchnorm import Pending, collect_pending
from layergraft.encoders.distributed import gather
from layergraft.encoders.vit import Encoder
from layergraft.objectives.base import Features, Losses, Objective, Progress
from layergraft.objectives.heads import mlp_head
from layergraft.objectives.losses import at_least_float32, covariance_loss, invariance_loss, variance_loss
from layergraft.objectives.views import VIEWS, encode_views


class Vicreg(Objective):
    """Weighted sum of invariance, variance and covariance of the two views' embeddings (section 4.1).

    The expander ends in a linear layer: a BatchNorm there would fix the variance that the loss is to raise.

    Args:
        config: weights of the three terms, and the expander.
        encoder: the encoder that it trains.
    """

    def __init__(self, config: VicregConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.heads["expander"] = mlp_head(encoder.embed_dim, config.expander, last_norm=False)

    def zero_gradient_parameters(self, encoder: Encoder) -> list[nn.Parameter]:
        """A shift of all features: the expander's first BatchNorm takes it away, or else every term of the loss."""
        return encoder.final_bias

    def encode(self, encoder: Encoder, batch: Batch) -> Features:
        return encode_views(encoder, batch, VIEWS, self.config.keep_ratio)

    def losses(self, features: Features, progress: Progress) -> tuple[Losses, Pending]:
        """Compute the loss of the whole batch, the same on every process."""
        first, second = (gather(at_least_float32(self.heads["expander"](features[view])))[0] for view in VIEWS)
        config = self.config
        parts = {
            "invariance": invariance_loss(first, second),
            "variance": (variance_loss(first, config.eps) + variance_loss(second, config.eps)) / 2,
            "covariance": covariance_loss(first) + covariance_loss(second),
        }
        loss = (
            config.invariance * parts["invariance"]
            + config.variance * parts["variance"]
            + config.covariance * parts["covariance"]
        )
        return {"loss": loss, **parts}, collect_pending(self)
