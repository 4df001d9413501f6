"""What a stage trains for, one file each; the losses themselves are pure functions in `losses`.

To add one: a file with a subclass of `Objective`, its keys in `layergraft.config.objectives`, a line in `create`.
"""

from layergraft.objectives.base import Losses, Objective, Progress
from layergraft.objectives.create import create_objective

__all__ = ["Losses", "Objective", "Progress", "create_objective"]
