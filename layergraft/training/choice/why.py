"""Why a recipe is as it is, a sentence a key, and what the user should know of it."""

from __future__ import annotations

from layergraft.config.encoder import height_and_width
from layergraft.config.recipe import Recipe
from layergraft.runs.readable import counted, duration
from layergraft.training.choice.images import ImageSet
from layergraft.training.choice.machine import Machine

SMALL = 5000  # images below which weights of another set are worth more than hours
READABLE = (
    "timm:NAME (timm:vit_small_patch16_224.dino), a checkpoint of MAE, MoCo v3, DINO or DINOv2 (.pth, .safetensors), "
    "a Hugging Face directory, or a run of layergraft"
)


def comments(recipe: Recipe, images: ImageSet, machine: Machine, minutes: float) -> dict[str, str]:
    """Dotted key of a chosen recipe -> why it has its value."""
    encoder, data = recipe.encoder, recipe.data
    side, _ = height_and_width(encoder.img_size)  # chosen recipes are of squares
    what = f"{counted(images.count, 'image')}, {f'shorter side {images.side} pixels' if images.side else 'far away'}"
    where = machine.gpu or f"{counted(machine.cores, 'core')} of a CPU"
    deep = "16 bits, nearly black as they are: the range is found once and then kept. " if images.deep else ""
    said = {
        "": f"Chosen by `layergraft train --data` for {what}, on {where} at {machine.gflops:,.0f} GFLOP/s, and "
        f"{duration(60 * minutes)} in all.\nEvery key can be changed: in this file (train --recipe FILE --out "
        "ANOTHER), or on the command line (--stages.graft.steps 2000).",
        "encoder": f"{encoder.depth} blocks of width {encoder.embed_dim}: the largest network of our list that sees "
        "the images often enough in the time.",
        "encoder.img_size": _size(images, side),
        "encoder.in_chans": {
            "colour": "Some of the images looked at hold colour.",
            "grey": "All of the images looked at are grey.",
        }.get(images.bands, "As many bands as the images have."),
        "encoder.patch_size": f"A grid of {side // (encoder.patch_size or 16)} by "
        f"{side // (encoder.patch_size or 16)} patches; a finer one sees more and takes longer.",
        "data.source": f"{deep}{_classes(images)}",
        "data.holdout": "Held out from training: all that is watched is measured on them"
        + (", and the results too, as there are no test images beside these." if _on_holdout(images) else "."),
        "data.cache": "Decoded images are kept: they are much larger than what the encoder sees."
        if data.cache != "none"
        else "Decoding is cheap beside training; `ram` or `disk` keeps decoded images.",
        "data.workers": "Threads that load images: as many as there are cores, up to what keeps training fed.",
        "stages.mae.steps": "Three fifths of the time: what masked patches teach the lower blocks.",
        "stages.graft.steps": "The rest of the time: telling images apart is what few labels need.",
        "evaluate": _measured(recipe, images),
        "monitor.every": "Epochs between two looks at held-out images: about eight looks in the longest stage.",
        "analyze": "Pictures that cost little beside the training; layergraft analyze makes more.",
        "engine.precision": "This machine multiplies in 16 bits several times as fast; weights and sums stay in 32."
        if machine.precision != "32-true"
        else "This machine gains nothing from 16 bits.",
        "engine.products": "What multiplies matrices in 32 bits faster on the processor that is there.",
    }
    if recipe.start is not None:
        said |= _started(recipe)
    for name, stage in recipe.stages.items():
        said[f"stages.{name}.batch_size"] = (
            f"{stage.batch_size} images: small, so that there are many steps."
            if machine.gpu is None
            else f"{stage.batch_size} images keep the GPU busy."
        )
        said[f"stages.{name}.warmup_steps"] = "A tenth of the stage, in which the learning rate rises."
        said[f"stages.{name}.optimizer.base_lr"] = (
            "At a batch of 256, for a network of this width: high, as the stage is short."
            if recipe.start is None
            else "At a batch of 256, for a network of this width: low, as the weights are good already."
        )
        first = next(iter(stage.views))  # the others are alike
        where_it_is = f"stages.{name}.views.{first}"
        said[f"{where_it_is}.flip"] = "Set 0 where left and right differ (letters, digits)."
        said[f"{where_it_is}.crop_scale"] = "Parts of the image: raise the first number where only the whole tells."
        if stage.views[first].jitter:
            said[f"{where_it_is}.hue"] = _colours(images)
            said[f"stages.{name}.objective.keep_ratio"] = (
                "A quarter of a view's patches: as many more steps in the same time teach more."
            )
    return said


def _measured(recipe: Recipe, images: ImageSet) -> str:
    if recipe.evaluate is not None:
        return "Few labels on frozen features, beside raw pixels and the first weights."
    if images.untestable:
        return f"Nothing can be measured: {images.untestable}."
    if images.classes and images.test is None and not recipe.data.holdout:
        return "There are no test images, and too few to hold any out."
    why = "The time does not allow it" if images.classes else "There are no labels"
    return f"{why}, so nothing is measured: layergraft evaluate does it later."


def unguarded(recipe: Recipe) -> tuple[str, ...]:
    """What a run is told that starts from weights and has too few held-out images to guard them."""
    if recipe.start is None or any(stage.guard is not None for stage in recipe.stages.values()):
        return ()
    return ("Fewer than two images are held out, so nothing guards the run: it may end below its start.",)


def _started(recipe: Recipe) -> dict[str, str]:
    guarded = not unguarded(recipe)
    alone = "Fewer than two images are held out: nothing guards this stage, and it may end below its start."
    return {
        "start": "Its weights are the beginning.",
        "encoder": "The shape of the weights that the run starts from.",
        "encoder.img_size": "The size of the images, or a few patches along a side; positions are resized.",
        "encoder.in_chans": "As the weights have them.",
        "encoder.patch_size": "As the weights have them.",
        "stages.heads.steps": "The new heads first, on an encoder that stands still: they would pull it about.",
        "stages.upper.steps": "Then the upper third, which holds most of what its method was after.",
        "stages.graft.plan": "Lower blocks slow, for they know edges and textures already; an anchor holds them all.",
        "stages.graft.steps": "Then everything moves, the upper blocks most.",
        "stages.upper.guard": "Measured on held-out images: what is worse than its start is not kept."
        if guarded
        else alone,
        "stages.graft.guard": "Likewise; if nothing is better, the run leaves the weights that it started from."
        if guarded
        else alone,
    }


def _size(images: ImageSet, size: int) -> str:
    if not images.side:
        return "The network's usual size: the images lie far away and were not looked at."
    if size >= images.side - images.side // 10:
        return "The size of the images: a larger one would hold no more."
    return f"The images have {images.side} pixels; this network has the time for {size} of them."


def _classes(images: ImageSet) -> str:
    if not images.classes:
        return "There are no labels: training needs none."
    smallest = f"the smallest of {counted(images.smallest, 'image')}"
    return f"{counted(images.classes, 'class')}, {smallest}; training does not look at them."


def _on_holdout(images: ImageSet) -> bool:
    return bool(images.classes) and images.test is None


def _colours(images: ImageSet) -> str:
    return {
        "colour": "Colours are changed a little: 0 where a colour's exact tone is the class (stains, minerals).",
        "grey": "Grey images have no hue; brightness and contrast are changed.",
    }.get(images.bands, "Bands have no hue; brightness and contrast are changed.")


def notes(images: ImageSet, started: bool, passes: float, wanted: float, minutes: float) -> tuple[str, ...]:
    """Sentences for the user: what the time does not allow, and what would be worth more.

    Args:
        images: what is trained on.
        started: whether the run starts from weights that were given.
        passes: images of the contrastive stage, over all its steps.
        wanted: how many it should see.
        minutes: of the whole run.
    """
    said = []
    if images.count < SMALL and not started:
        said.append(
            f"{images.count:,} images are few: weights of a larger set are worth more than hours here. Give them as "
            f"--start: {READABLE}."
        )
    if passes < 0.8 * wanted:
        more = minutes * wanted / max(passes, 1)
        said.append(
            f"{duration(60 * minutes)} is short for these images: the contrastive stage sees "
            f"{passes / images.count:,.1f} times each, and {wanted / images.count:,.0f} would do it good "
            f"(--minutes {float(f'{more:.2g}'):g})."
        )
    if images.untestable:
        said.append(f"Nothing will be measured: {images.untestable}.")
    return tuple(said)
