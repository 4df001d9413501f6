"""From the plan to the optimizer: a group of parameters for each learning rate and weight decay of the table.

`training.trainer.Trainer` gives the groups to `training.optim.build_optimizer`, and at every step sets `lr` to
`peak_lr` times the schedule.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from layergraft.graft.apply import RowParameters
from layergraft.graft.plan import Plan


def parameter_groups(rows: RowParameters, plan: Plan) -> list[dict[str, Any]]:
    """Optimizer groups: the trained parameters by (lr, weight decay), each with its `peak_lr`.

    1-D parameters (biases, norms) take `weight_decay_1d`; class and mask tokens have more dimensions and decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for row in plan.rows:
        if not row.frozen:
            for parameter in rows[row.name]:
                decay = row.weight_decay_1d if parameter.ndim <= 1 else row.weight_decay
                groups.setdefault((row.lr, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
