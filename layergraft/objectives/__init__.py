"""What a stage trains for, one file each."""

from layergraft.objectives.base import Losses, Objective, Progress
from layergraft.objectives.create import create_objective

__all__ = ["Losses", "Objective", "Progress", "create_objective"]
