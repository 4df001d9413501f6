"""Where a stage's weights come from: what came before, fresh ones, or any ENC, in the shape of the recipe's encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgspec import structs, to_builtins

from layergraft.config.encoder import EncoderConfig
from layergraft.config.paths import expanded
from layergraft.config.plan import PlanConfig
from layergraft.config.recipe import Recipe
from layergraft.data.randomness import Randomness
from layergraft.encoders.adapt import load_resized
from layergraft.encoders.checkpoint import load_encoder, load_heads, open_checkpoint
from layergraft.encoders.safe_load import Weights
from layergraft.encoders.vit import Encoder, create_encoder
from layergraft.errors import UserError
from layergraft.graft.initialize import Donor, copy_row
from layergraft.graft.plan import row_source
from layergraft.runs.announce import announce
from layergraft.runs.json_files import read_json_as
from layergraft.runs.layout import HeadsFile, last_stage
from layergraft.runs.readable import counted


def load_donor(enc: str, config: EncoderConfig) -> Encoder:
    """Load an ENC in the shape of a recipe's encoder, but with the number of blocks that it has itself.

    Args:
        enc: path or name of an encoder.
        config: the recipe's encoder.

    Raises:
        UserError: it differs in more than depth and image size.
    """
    donor = load_encoder(enc)
    like = create_encoder(structs.replace(config, depth=donor.depth), 0, donor.mean, donor.std)
    return load_resized(donor, like, enc, announce)


def load_start(recipe: Recipe, depth: int) -> Encoder:
    """Load the encoder that a recipe starts from.

    Args:
        recipe: names it as `start`.
        depth: blocks of the recipe's encoder.

    Raises:
        UserError: it cannot be read, or does not fit the recipe's encoder and the first stage's plan.
    """
    assert recipe.start is not None
    donor = load_donor(recipe.start, recipe.encoder)
    name, stage = next(iter(recipe.stages.items()))
    check_depth(recipe.start, donor.depth, depth, stage.plan, name)
    return donor


def first_encoder(recipe: Recipe, mean: tuple[float, ...], std: tuple[float, ...]) -> Encoder:
    """Create the encoder that the first stage begins with: fresh weights, or those of the recipe's `start`.

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
        donor = load_start(recipe, encoder.depth)
        query = (recipe.data.source or "").partition("?")[2]
        encoder.mean = mean if recipe.data.mean or "mean=" in query else donor.mean
        encoder.std = std if recipe.data.std or "std=" in query else donor.std
        used = _statistics(encoder.mean, encoder.std)
        donors = _statistics(donor.mean, donor.std)
        sources = _statistics(mean, std)
        if used != donors:
            announce(f"Images are normalised with {used}, as `data` says; {recipe.start} was trained with {donors}.")
        elif used != sources:
            announce(
                f"Images are normalised with {used}, as {recipe.start} was trained, not with {sources} of the source."
            )
        for row in donor.layers():
            copy_row(row, donor, encoder, recipe.start)
    return encoder


def _statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """Mean and standard deviation of each channel, as a message says them."""
    return f"mean {', '.join(f'{x:.3g}' for x in mean)} and std {', '.join(f'{x:.3g}' for x in std)}"


def check_depth(start: str, donor_depth: int, depth: int, plan: PlanConfig, stage: str) -> None:
    """Refuse blocks that nothing gives weights to.

    Args:
        start: the ENC, for messages.
        donor_depth: blocks that it has.
        depth: blocks of the recipe's encoder.
        plan: of the first stage.
        stage: its name.

    Raises:
        UserError: `start` has more blocks, or fewer and the plan does not say where the others come from.
    """
    if donor_depth > depth:
        raise UserError(
            f"`start` {start!r} has {counted(donor_depth, 'block')}, the encoder {depth}.", "Set encoder.depth."
        )
    appended = [f"blocks.{i}" for i in range(donor_depth, depth) if row_source(plan, f"blocks.{i}") == "previous"]
    if appended:
        raise UserError(
            f"`start` {start!r} has {counted(donor_depth, 'block')}, the encoder {depth}: "
            f"nothing says where {appended[0]} comes from.",
            f"Set encoder.depth, or append it: `stages.{stage}.plan.source: {{{appended[0]}: fresh}}`.",
        )


@dataclass(frozen=True, kw_only=True)
class Donors:
    """Loads what a stage's rows take their weights from, by the source that the plan names.

    Args:
        recipe: the run's recipe.
        stage: name of the stage.
        like: its encoder, which tells the statistics of the images.
        before: the stage before, or the recipe's `start`, or None.
    """

    recipe: Recipe
    stage: str
    like: Encoder
    before: str | None

    def load(self, source: str) -> Donor:
        """Load a source: `previous`, `fresh` or an ENC.

        Raises:
            UserError: it cannot be read, or does not fit the recipe's encoder.
        """
        if source == "fresh":
            seed = Randomness(seed=self.recipe.seed, scope=self.stage).torch_seed("fresh")
            return Donor(encoder=create_encoder(self.recipe.encoder, seed, self.like.mean, self.like.std))
        if source != "previous":
            donor = load_donor(source, self.recipe.encoder)
            donors, stages = _statistics(donor.mean, donor.std), _statistics(self.like.mean, self.like.std)
            if donors != stages and row_source(self.recipe.stages[self.stage].plan, "patch_embed") == source:
                announce(f"The patch embedding of {source} was trained with {donors}; stage {self.stage} has {stages}.")
            return Donor(encoder=donor, heads=self.heads(source, source))
        if self.before is None:
            return Donor()
        momentum = None
        # Where the user asked for one of a run's encoders, online and momentum weights both start from it.
        if "encoder=" not in self.before and "momentum" in open_checkpoint(self.before).roles:
            separator = "&" if "?" in self.before else "?"
            momentum = load_donor(f"{self.before}{separator}encoder=momentum", self.recipe.encoder)
        return Donor(momentum=momentum, heads=self.heads("previous", self.before))

    def heads(self, source: str, enc: str) -> Weights:
        """The heads of an ENC, without a decoder whose number of attention heads differs: its shapes do not show that.

        Raises:
            UserError: the plan takes such a decoder from this very source.
        """
        heads, stage = load_heads(enc), self.recipe.stages[self.stage]
        file = last_stage(expanded(enc.partition("?")[0])) / "heads.json"
        saved = attention_heads(to_builtins(read_json_as(file, HeadsFile)["objective"])) if file.is_file() else None
        wanted = attention_heads(to_builtins(stage.objective))
        if None in (saved, wanted) or saved == wanted or row_source(stage.plan, "heads.decoder") != source:
            return heads
        if source != "previous":
            raise UserError(
                f"heads.decoder of {source!r} has {saved} attention heads, that of stage {self.stage!r} {wanted}.",
                "Set the objective's decoder.num_heads, or change the plan's `source`.",
            )
        announce(f"heads.decoder starts fresh: before, it had {saved} attention heads.")
        return {name: value for name, value in heads.items() if not name.startswith("decoder.")}


def attention_heads(objective: dict[str, Any]) -> int | None:
    """Attention heads of a decoder block, of an objective or one of its parts; None where no decoder is."""
    parts = (objective, *objective.get("parts", {}).values())
    return next((part["decoder"]["num_heads"] for part in parts if "decoder" in part), None)
