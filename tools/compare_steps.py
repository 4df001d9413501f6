"""Our training step beside those of transformers, lightly and stable-pretraining, in turn in one process.

MAE at ViT-S/16 and 224 pixels, MoCo v3 at 112; the same network, the same heads, images that are there. Each rival's
step is what its documentation has, with torch's fused AdamW (`fused`: none is slower with it) and with torch's default.
All take turns; a ratio is theirs over ours in processor time of the process, round by round. Rivals that are not
installed are left out. Several calls with one `--out` add their rows to it.

    python tools/compare_steps.py --threads 1 --batches 8 32 --out docs/performance/steps.json
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from peer_figures import Row, write_rows
from torch import Tensor, nn

from layergraft.commands.bench.step import our_step, prepare, reference_inputs, reference_step, settle
from layergraft.config.encoder import EncoderConfig
from layergraft.config.objectives import MaeConfig, MocoConfig
from layergraft.config.recipe import EngineConfig

NAME, WIDTH, DEPTH, HEADS = "vit_small_patch16_224", 384, 12, 6
DECODER = MaeConfig().decoder
MOCO = MocoConfig()
ABOUT = {
    "title": "A training step",
    "about": (
        "MAE and MoCo v3 on the same timm network, heads and images: processor time of a step, medians of rounds in "
        "turn in one process, beside other programs. The reference is that of `layergraft bench step`. Where it says "
        "so, our matrices are multiplied by oneDNN (`engine.products: auto`), theirs by torch's MKL, which on AMD's "
        "processors does not use AVX-512; rows without it are of the default, `engine.products: torch`."
    ),
    "command": "python tools/compare_steps.py --objective mae --batches 8 32 --threads 1",
}
Step = Callable[[], object]
Loss = Callable[[], Tensor]
Kind = Literal["torch", "onednn", "bf16"]


def vit(size: int) -> nn.Module:
    """timm's network, which all but transformers train."""
    import timm

    network: nn.Module = timm.create_model(NAME, num_classes=0, img_size=size)
    return network


def transformers_mae(images: Tensor, size: int) -> tuple[nn.Module, Loss]:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=size,
        decoder_hidden_size=DECODER.embed_dim,
        decoder_num_hidden_layers=DECODER.depth,
        decoder_num_attention_heads=DECODER.num_heads,
        decoder_intermediate_size=4 * DECODER.embed_dim,
        norm_pix_loss=True,
    )
    model = ViTMAEForPreTraining(config)
    return model, lambda: model(pixel_values=images).loss


class LightlyMae(nn.Module):
    """As in lightly's example of MAE."""

    def __init__(self, size: int) -> None:
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

        super().__init__()
        network = vit(size)
        self.backbone = MaskedVisionTransformerTIMM(vit=network)
        self.decoder = MAEDecoderTIMM(
            num_patches=network.patch_embed.num_patches,
            patch_size=16,
            embed_dim=WIDTH,
            decoder_embed_dim=DECODER.embed_dim,
            decoder_depth=DECODER.depth,
            decoder_num_heads=DECODER.num_heads,
        )

    def forward(self, images: Tensor) -> Tensor:
        from lightly.models import utils

        size = (len(images), self.backbone.sequence_length)
        kept, hidden = utils.random_token_mask(size, mask_ratio=0.75, device=images.device)
        seen = self.decoder.embed(self.backbone.encode(images=images, idx_keep=kept))
        masks = utils.repeat_token(self.decoder.mask_token, size)
        tokens = utils.set_at_index(masks, kept, seen.type_as(masks))
        predicted = self.decoder.predict(utils.get_at_index(self.decoder.decode(tokens), hidden))
        target = utils.get_at_index(utils.patchify(images, 16), hidden - 1)
        return nn.functional.mse_loss(predicted, utils.normalize_mean_var(target, dim=-1))


def lightly_mae(images: Tensor, size: int) -> tuple[nn.Module, Loss]:
    model = LightlyMae(size)
    return model, lambda: model(images)


def stable_pretraining_mae(images: Tensor, size: int) -> tuple[nn.Module, Loss]:
    from stable_pretraining.methods import MAE

    model = MAE(
        NAME,
        decoder_embed_dim=DECODER.embed_dim,
        decoder_depth=DECODER.depth,
        decoder_num_heads=DECODER.num_heads,
    )
    return model.train(), lambda: model(images).loss


class LightlyMoco(nn.Module):
    """lightly's heads and momentum update, with the loss of the paper (algorithm 1), which lightly lacks."""

    def __init__(self, size: int) -> None:
        import copy

        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        super().__init__()
        hidden, _, out = MOCO.projector
        self.backbone = vit(size)
        deactivate_requires_grad(self.backbone.patch_embed)
        self.head = MoCoProjectionHead(WIDTH, hidden, out, num_layers=3, batch_norm=True)
        self.predictor = MoCoProjectionHead(out, MOCO.predictor[0], out, num_layers=2, batch_norm=True)
        self.slow_backbone, self.slow_head = copy.deepcopy(self.backbone), copy.deepcopy(self.head)
        deactivate_requires_grad(self.slow_backbone)
        deactivate_requires_grad(self.slow_head)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        from lightly.models.utils import update_momentum

        update_momentum(self.backbone, self.slow_backbone, m=0.99)
        update_momentum(self.head, self.slow_head, m=0.99)
        queries = [self.predictor(self.head(self.backbone(view))) for view in (first, second)]
        with torch.no_grad():
            keys = [self.slow_head(self.slow_backbone(view)) for view in (first, second)]
        losses = []
        for query, key in zip(queries, reversed(keys), strict=True):
            logits = nn.functional.normalize(query, dim=1) @ nn.functional.normalize(key, dim=1).T / MOCO.temperature
            losses.append(nn.functional.cross_entropy(logits, torch.arange(len(query))))
        return 2 * MOCO.temperature * (losses[0] + losses[1])


def lightly_moco(first: Tensor, second: Tensor, size: int) -> tuple[nn.Module, Loss]:
    model = LightlyMoco(size)
    return model, lambda: model(first, second)


class FitsAnySize(nn.Module):
    """stable-pretraining asks a network for its width with an image of 224 pixels; this one cuts it to its own size."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images[..., : self.size, : self.size])
        return features


def stable_pretraining_moco(first: Tensor, second: Tensor, size: int) -> tuple[nn.Module, Loss]:
    from stable_pretraining.methods import MoCov3

    model = MoCov3(FitsAnySize(vit(size), size), MOCO.projector, MOCO.predictor[0], MOCO.temperature).train()
    teachers = [model.backbone, model.projector]

    def loss() -> Tensor:
        for teacher in teachers:  # what its callback does at the end of a step
            teacher.update_teacher()
        return model(first, second).loss  # type: ignore[no-any-return]

    return model, loss


RIVALS: dict[str, dict[str, Callable[..., tuple[nn.Module, Loss]]]] = {
    "mae": {
        "transformers": transformers_mae,
        "lightly": lightly_mae,
        "stable_pretraining": stable_pretraining_mae,
    },
    "moco": {"lightly": lightly_moco, "stable_pretraining": stable_pretraining_moco},
}


def rival_step(model: nn.Module, loss: Loss, fused: bool | None, bf16: bool) -> Step:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-4, weight_decay=0.05, fused=fused)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def seconds_in_turn(steps: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """Processor seconds of each, all threads together, a number a round; nothing counts until memory has grown."""
    settle(list(steps.values()), rounds=1)
    times: dict[str, list[float]] = {name: [] for name in steps}
    began = time.perf_counter()
    while len(times["ours"]) < 3 or time.perf_counter() - began < seconds:
        order = list(steps) if len(times["ours"]) % 2 else list(reversed(steps))
        for name in order:
            start = time.process_time()
            steps[name]()
            times[name].append(time.process_time() - start)
    return times


def compare(objective: str, size: int, images: int, seconds: float, rivals: list[str], kind: Kind) -> list[Row]:
    """One case: its rows, the fastest rival first."""
    config = MaeConfig() if objective == "mae" else MocoConfig()
    bf16 = kind == "bf16"
    products: Literal["torch", "onednn"] = "onednn" if kind == "onednn" else "torch"
    engine = EngineConfig(precision="bf16-mixed" if bf16 else "32-true", products=products)
    trainer, batch = prepare(config, EncoderConfig(name=NAME, img_size=size), images, 0, engine)
    inputs = reference_inputs(trainer, batch)
    shown = inputs[:1] if objective == "mae" else inputs
    steps: dict[str, Step] = {"ours": our_step(trainer, batch)}
    if "reference" in rivals and not bf16:
        steps["reference"] = reference_step(trainer, batch)
    for name, build in RIVALS[objective].items():
        if name not in rivals:
            continue
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed and left out.")
            continue
        steps[f"{name}, fused AdamW"] = rival_step(*build(*shown, size), fused=True, bf16=bf16)
        if images <= 8:  # at larger batches the optimizer hardly counts
            steps[name] = rival_step(*build(*shown, size), fused=None, bf16=bf16)
    times = {name: np.array(rounds) for name, rounds in seconds_in_turn(steps, seconds).items()}
    case = f"{objective}, ViT-S/16, {size} px, batch {images}, {torch.get_num_threads()} threads"
    case += {"torch": "", "onednn": ", our products by oneDNN", "bf16": ", bf16 products"}[kind]
    rows = [Row.of(case, name, times["ours"], theirs) for name, theirs in times.items() if name != "ours"]
    return sorted(rows, key=lambda row: row.median)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objective", choices=("mae", "moco"), default="mae")
    parser.add_argument("--size", type=int, help="side of the images; 224 for mae, 112 for moco")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32], help="images of a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each case")
    parser.add_argument("--out", type=Path, help="JSON file that gets the rows")
    known = ["reference", *RIVALS["mae"]]
    parser.add_argument("--rivals", choices=known, nargs="+", default=known, help="only these")
    kinds = "torch's products, ours by oneDNN (engine.products), or all in bf16 (the rivals by torch.autocast)"
    parser.add_argument("--products", choices=get_args(Kind), default="onednn", help=kinds)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = arguments.size or {"mae": 224, "moco": 112}[arguments.objective]
    for images in arguments.batches:
        rows = compare(arguments.objective, size, images, arguments.seconds, arguments.rivals, arguments.products)
        for row in rows:
            print(row, flush=True)
        if arguments.out:
            packages = ("torch", "timm", "transformers", "lightly", "stable-pretraining")
            write_rows(arguments.out, ABOUT, packages, rows)


if __name__ == "__main__":
    main()
