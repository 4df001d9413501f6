"""Recipes as typed, frozen configuration. Nothing here imports torch or numpy, so that every `--help` is quick.

`recipe` is the whole; `stage`, `objectives`, `plan`, `data` and `encoder` are its parts. A key is a field of one of
these records: its type and default stand there, its sentence under `Args`.
"""

from layergraft.config.data import DataConfig, RandAugmentConfig, ViewConfig
from layergraft.config.encoder import EncoderConfig
from layergraft.config.guard import GuardConfig
from layergraft.config.loading import dump_recipe, load_recipe, read_run_recipe, recipe_names
from layergraft.config.objectives import (
    DecoderConfig,
    GateConfig,
    JointConfig,
    MaeConfig,
    MocoConfig,
    NnclrConfig,
    ObjectiveConfig,
    SimclrConfig,
    VicregConfig,
)
from layergraft.config.plan import AnchorConfig, FreezeBlocks, HeadsPlanConfig, LrScaleConfig, PlanConfig
from layergraft.config.recipe import (
    EngineConfig,
    EvaluateConfig,
    MonitorConfig,
    Recipe,
)
from layergraft.config.stage import OptimizerConfig, StageConfig
from layergraft.config.supervised import ClassifyConfig, GridConfig, MixConfig, SegmentConfig

__all__ = [
    "AnchorConfig",
    "ClassifyConfig",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "EngineConfig",
    "EvaluateConfig",
    "FreezeBlocks",
    "GateConfig",
    "GridConfig",
    "GuardConfig",
    "HeadsPlanConfig",
    "JointConfig",
    "LrScaleConfig",
    "MaeConfig",
    "MixConfig",
    "MocoConfig",
    "MonitorConfig",
    "NnclrConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PlanConfig",
    "RandAugmentConfig",
    "Recipe",
    "SegmentConfig",
    "SimclrConfig",
    "StageConfig",
    "VicregConfig",
    "ViewConfig",
    "dump_recipe",
    "load_recipe",
    "read_run_recipe",
    "recipe_names",
]
