#!/usr/bin/env bash
# torch's linear layer by oneDNN, `torch.ops.mkldnn._linear_pointwise`, takes a bias with a stride and adds other numbers.
#
# Versions: torch of the Python that runs this (2.14.1 from PyPI, oneDNN 3.12).
# The guess that missed: an operator of torch either honours strides, as `F.linear` does, or refuses them. Inputs and
# weights with strides are read rightly.
# Seen: with every third number of twelve as the bias, the layer adds the four numbers that follow each other in memory
# from the first on, and says nothing. torch.compile, which the operator is made for, gives it contiguous ones alone;
# who calls it by hand has to ask `bias.is_contiguous()`.
# Needs a Python with torch: PYTHON=.venv/bin/python bash findings/onednn_linear_strided_bias.sh
set -euo pipefail
python=${PYTHON:-python3}
"$python" - <<'PY'
import sys

import torch
import torch.nn.functional as F

print(f"torch {torch.__version__}")
if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
    sys.exit("This torch has no such operator.")
x, weight, numbers = torch.ones(2, 8), torch.zeros(4, 8), torch.arange(12.0)


def by_onednn(x, weight, bias):
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


strided = numbers[::3]
print("bias      ", strided.tolist())
print("F.linear  ", F.linear(x, weight, strided)[0].tolist())
print("by oneDNN ", by_onednn(x, weight, strided)[0].tolist())
assert F.linear(x, weight, strided)[0].tolist() == [0, 3, 6, 9]
assert by_onednn(x, weight, strided.contiguous())[0].tolist() == [0, 3, 6, 9]
assert by_onednn(x, weight, strided)[0].tolist() == [0, 1, 2, 3], "it reads the bias in another way now"
torch.manual_seed(0)
x, weight, bias = torch.randn(2, 16)[:, ::2], torch.randn(8, 4).T, torch.randn(4)
assert torch.allclose(by_onednn(x, weight, bias), F.linear(x, weight, bias), atol=1e-5)
PY
