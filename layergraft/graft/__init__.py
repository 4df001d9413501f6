"""The graft plan: a table with a row per layer."""

from layergraft.graft.apply import parameter_groups, set_frozen
from layergraft.graft.plan import Plan, PlanRow, build_plan

__all__ = ["Plan", "PlanRow", "build_plan", "parameter_groups", "set_frozen"]
