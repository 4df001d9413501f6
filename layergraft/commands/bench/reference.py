"""The straightforward MAE and MoCo v3 steps that `layergraft bench step` compares with.

Written from the papers (He et al., CVPR 2022; Chen et al., ICCV 2021) as plainly as today's libraries do, with what is
best in them: torch's fused attention and fused AdamW, removed patches alone predicted, a momentum update in one
operation a parameter. As in them, all patches are embedded before some are removed, and each view goes alone through
each encoder. It shares nothing with the rest of the package, and a test holds the hash of this file, so that a ratio
means the same from one version to the next. Names of weights are timm's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weighed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(weighed.transpose(1, 2).reshape(n, tokens, width))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return out


class Vit(nn.Module):
    """A Vision Transformer with a class token, without a classifier."""

    def __init__(self, image: int, channels: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(channels, patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> class tokens (N, D)."""
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        front = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        out: Tensor = self.norm(self.blocks(torch.cat([front, x], dim=1)))
        return out[:, 0]

    def forward_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        """Images, indices (N, K) -> tokens of class and visible patches (N, 1 + K, D)."""
        x = self.patch_embed(images) + self.pos_embed[:, 1:]
        x = torch.gather(x, 1, visible[:, :, None].repeat(1, 1, x.shape[2]))
        front = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        out: Tensor = self.norm(self.blocks(torch.cat([front, x], dim=1)))
        return out


class Decoder(nn.Module):
    def __init__(self, patches: int, pixels: int, encoder_width: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("positions", torch.zeros(1, patches + 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pred = nn.Linear(width, pixels)

    positions: Tensor

    def forward(self, latent: Tensor, place: Tensor, removed: Tensor) -> Tensor:
        """Predict pixels (N, M, P) of the removed patches (N, M).

        `latent` are tokens (N, 1 + K, D), `place` (N, L) where each patch is among visible and removed ones.
        """
        x = self.embed(latent)
        masks = self.mask_token.repeat(len(x), place.shape[1] + 1 - x.shape[1], 1)
        patches = torch.cat([x[:, 1:], masks], dim=1)
        patches = torch.gather(patches, 1, place[:, :, None].repeat(1, 1, x.shape[2]))
        x = torch.cat([x[:, :1], patches], dim=1) + self.positions
        patches = torch.gather(self.blocks(x)[:, 1:], 1, removed[:, :, None].repeat(1, 1, x.shape[2]))
        out: Tensor = self.pred(self.norm(patches))
        return out


class Mae(nn.Module):
    def __init__(self, encoder: Vit, decoder: Decoder, patch: int, mask_ratio: float) -> None:
        super().__init__()
        self.encoder, self.decoder, self.patch, self.mask_ratio = encoder, decoder, patch, mask_ratio

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Images (N, C, H, W), noise (N, L) -> mean squared error on removed patches, targets normalised by patch."""
        order = noise.argsort(dim=1, stable=True)
        kept = int(noise.shape[1] * (1 - self.mask_ratio))
        visible, removed = order[:, :kept], order[:, kept:]
        prediction = self.decoder(self.encoder.forward_visible(images, visible), order.argsort(dim=1), removed)
        n, c, h, w = images.shape
        p = self.patch
        target = images.reshape(n, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, p * p * c)
        target = torch.gather(target, 1, removed[:, :, None].repeat(1, 1, target.shape[2]))
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return F.mse_loss(prediction, target)


def mlp(width: int, widths: tuple[int, ...]) -> nn.Sequential:
    """MoCo v3's head: linears without bias, BatchNorm after each, ReLU between."""
    layers: list[nn.Module] = []
    for index, out in enumerate(widths):
        last = index == len(widths) - 1
        layers += [nn.Linear(width, out, bias=False), nn.BatchNorm1d(out, affine=not last)]
        layers += [] if last else [nn.ReLU()]
        width = out
    return nn.Sequential(*layers)


class Moco(nn.Module):
    def __init__(
        self,
        encoder: Vit,
        slow_encoder: Vit,
        width: int,
        projector: tuple[int, ...],
        predictor: tuple[int, ...],
        temperature: float,
    ) -> None:
        super().__init__()
        self.encoder, self.projector, self.predictor = encoder, mlp(width, projector), mlp(projector[-1], predictor)
        self.slow_encoder, self.slow_projector = slow_encoder, mlp(width, projector)
        self.temperature = temperature

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """The momentum side follows; before the keys are computed."""
        for slow, fast in ((self.slow_encoder, self.encoder), (self.slow_projector, self.projector)):
            for s, f in zip(slow.parameters(), fast.parameters(), strict=True):
                s.lerp_(f, 1 - momentum)

    def contrast(self, query: Tensor, key: Tensor) -> Tensor:
        logits = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T / self.temperature
        return F.cross_entropy(logits, torch.arange(len(query), device=query.device)) * (2 * self.temperature)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two views (N, C, H, W) -> loss."""
        q1 = self.predictor(self.projector(self.encoder(first)))
        q2 = self.predictor(self.projector(self.encoder(second)))
        with torch.no_grad():
            k1 = self.slow_projector(self.slow_encoder(first))
            k2 = self.slow_projector(self.slow_encoder(second))
        return self.contrast(q1, k2) + self.contrast(q2, k1)


def adamw(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """torch's AdamW, fused."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr, weight_decay=weight_decay, fused=True)


def mae_step(model: Mae, optimizer: torch.optim.Optimizer, images: Tensor, noise: Tensor) -> Tensor:
    """One training step; returns the loss."""
    loss: Tensor = model(images, noise)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def moco_step(model: Moco, optimizer: torch.optim.Optimizer, first: Tensor, second: Tensor, momentum: float) -> Tensor:
    """One training step; returns the loss."""
    model.update(momentum)
    loss: Tensor = model(first, second)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()
