"""Where a stage's weights come from: what came before, fresh ones, or any ENC, in the shape of the recipe's encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs, to_builtins

from layergraft.config.encoder import EncoderConfig
from layergraft.config.plan import PlanConfig
from layergraft.config.recipe import Recipe
from layergraft.data.randomness import Randomness
from layergraft.encoders.adapt import fit
from layergraft.encoders.checkpoint import announce, load_encoder, load_heads, open_checkpoint
from layergraft.encoders.safe_load import read_json
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.graft.initialize import Origin, Weights, copy_row
from layergraft.graft.plan import row_source
from layergraft.runs.layout import last_stage


def shaped(enc: str, config: EncoderConfig) -> Encoder:
    """An ENC in the shape of a recipe's encoder, with as many blocks as it has itself.

    Raises:
        UserError: it differs in more than depth and image size.
    """
    donor = load_encoder(enc)
    like = create_encoder(structs.replace(config, depth=donor.depth), 0, donor.mean, donor.std)
    return fit(donor, like, enc, announce)


def first_encoder(recipe: Recipe, mean: tuple[float, ...], std: tuple[float, ...]) -> Encoder:
    """The recipe's initial weights: fresh, or those of `start`.

    `start` may have fewer blocks: those above are appended, and the first stage's plan has to say where they come from.
    Its weights know images by the statistics that they were trained with, which are used unless `data` or its source
    (`?mean=`, `?std=`) sets others.

    Args:
        recipe: what to do.
        mean: mean of each channel of the recipe's images.
        std: standard deviation of each channel, likewise.

    Raises:
        UserError: `start` does not fit.
    """
    seed = Randomness(seed=recipe.seed, scope="encoder").torch_seed("init")
    encoder = create_encoder(recipe.encoder, seed, mean, std)
    if recipe.start is not None:
        donor = shaped(recipe.start, recipe.encoder)
        query = (recipe.data.source or "").partition("?")[2]
        encoder.mean = mean if recipe.data.mean or "mean=" in query else donor.mean
        encoder.std = std if recipe.data.std or "std=" in query else donor.std
        used, theirs, own = _words(encoder.mean, encoder.std), _words(donor.mean, donor.std), _words(mean, std)
        if used != theirs:
            announce(f"Images are normalised with {used}, as `data` says; {recipe.start} was trained with {theirs}.")
        elif used != own:
            announce(f"Images are normalised with {used}, as {recipe.start} was trained, not with {own} of the source.")
        name, stage = next(iter(recipe.stages.items()))
        check_depth(recipe.start, donor.depth, encoder.depth, stage.plan, name)
        for row in donor.layers():
            copy_row(row, donor, encoder, recipe.start)
    return encoder


def _words(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    return f"mean {', '.join(f'{x:.3g}' for x in mean)} and std {', '.join(f'{x:.3g}' for x in std)}"


def check_depth(start: str, given: int, depth: int, plan: PlanConfig, stage: str) -> None:
    """Find blocks that nothing gives weights to.

    Args:
        start: the ENC, for messages.
        given: blocks that it has.
        depth: blocks of the recipe's encoder.
        plan: of the first stage.
        stage: its name.

    Raises:
        UserError: `start` has more blocks, or fewer and the plan does not say where the others come from.
    """
    if given > depth:
        raise UserError(f"`start` {start!r} has {given} blocks, the encoder {depth}.", "Set encoder.depth.")
    appended = [f"blocks.{i}" for i in range(given, depth) if row_source(plan, f"blocks.{i}") == "previous"]
    if appended:
        raise UserError(
            f"`start` {start!r} has {given} blocks, the encoder {depth}: nothing says where {appended[0]} comes from.",
            f"Set encoder.depth, or append it: `stages.{stage}.plan.source: {{{appended[0]}: fresh}}`.",
        )


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Source of a plan's row -> what it can be taken from.

    Args:
        recipe: the run's recipe.
        stage: name of the stage.
        like: its encoder.
        before: the stage before, or the recipe's `start`, or None.
    """

    recipe: Recipe
    stage: str
    like: Encoder
    before: str | None

    def __call__(self, source: str) -> Origin:
        if source == "fresh":
            seed = Randomness(seed=self.recipe.seed, scope=self.stage).torch_seed("fresh")
            return Origin(encoder=create_encoder(self.recipe.encoder, seed, self.like.mean, self.like.std))
        if source != "previous":
            donor = shaped(source, self.recipe.encoder)
            theirs, own = _words(donor.mean, donor.std), _words(self.like.mean, self.like.std)
            if theirs != own and row_source(self.recipe.stages[self.stage].plan, "patch_embed") == source:
                announce(f"The patch embedding of {source} was trained with {theirs}; stage {self.stage} has {own}.")
            return Origin(encoder=donor, heads=self.heads(source, source))
        if self.before is None:
            return Origin()
        momentum = None
        # Where one encoder of several was asked for, both start from it.
        if "encoder=" not in self.before and "momentum" in open_checkpoint(self.before).roles:
            asked = "&" if "?" in self.before else "?"
            momentum = shaped(f"{self.before}{asked}encoder=momentum", self.recipe.encoder)
        return Origin(momentum=momentum, heads=self.heads("previous", self.before))

    def heads(self, source: str, enc: str) -> Weights:
        """The heads of an ENC, but for a decoder of another number of attention heads, which no shape gives away.

        Raises:
            UserError: the plan takes such a decoder from this very source.
        """
        heads, stage = load_heads(enc), self.recipe.stages[self.stage]
        file = last_stage(Path(enc.partition("?")[0]).expanduser()) / "heads.json"
        theirs = attention_heads(read_json(file)["objective"]) if file.is_file() else None
        own = attention_heads(to_builtins(stage.objective))
        if None in (theirs, own) or theirs == own or row_source(stage.plan, "heads.decoder") != source:
            return heads
        if source != "previous":
            raise UserError(
                f"heads.decoder of {source!r} has {theirs} attention heads, that of stage {self.stage!r} {own}.",
                "Set the objective's decoder.num_heads, or change the plan's `source`.",
            )
        announce(f"heads.decoder starts fresh: before, it had {theirs} attention heads.")
        return {name: value for name, value in heads.items() if not name.startswith("decoder.")}


def attention_heads(objective: dict[str, Any]) -> int | None:
    """Attention heads of a block of an objective's decoder, or of its part's; None where there is none."""
    parts = (objective, *objective.get("parts", {}).values())
    return next((part["decoder"]["num_heads"] for part in parts if "decoder" in part), None)
