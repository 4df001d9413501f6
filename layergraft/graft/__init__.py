"""The graft plan: a table with a row per layer, `plan.Plan`.

From recipe to optimizer: `layergraft.config.plan` is what a recipe says, `plan.build_plan` makes the table,
`optimizer_groups.parameter_groups` makes the optimizer's groups of it, and the trainer hands them to
`layergraft.training.optim`. Before that `initialize` brings the weights in and `apply` freezes.
"""

from layergraft.graft.apply import set_frozen
from layergraft.graft.optimizer_groups import parameter_groups
from layergraft.graft.plan import Plan, PlanRow, build_plan

__all__ = ["Plan", "PlanRow", "build_plan", "parameter_groups", "set_frozen"]
