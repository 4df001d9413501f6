#!/usr/bin/env bash
# torch's float32 products on an AMD processor with AVX-512 run at half of its speed: MKL, which torch takes for them,
# stays with AVX2 there. oneDNN, which the same torch carries for convolutions, uses AVX-512.
#
# Versions: torch of the Python that runs this (2.14.1 from PyPI, MKL 2024.2, oneDNN 3.12), AMD EPYC of the Zen 5 kind.
# The guess that missed: `torch.backends.cpu.get_cpu_capability()` says AVX512, so products use it; and no library of the
# same torch is twice as fast at the same product in the same precision.
# Seen on one thread, 10^9 operations a second of `F.linear` and of oneDNN: 800 rows, 384 -> 1536: 107 and 232; 2048
# cubed: 103 and 232. Both round as single precision does (largest error of sums of 384 numbers 5e-5 and 8e-5, of 2048
# 8e-5 and 3e-4, where results reach 200: oneDNN adds longer chains). `MKL_ENABLE_INSTRUCTIONS=AVX512` changes nothing.
# Needs a Python with torch: PYTHON=.venv/bin/python bash findings/float32_products_on_amd.sh
set -euo pipefail
python=${PYTHON:-python3}
for setting in default AVX512; do
    [ "$setting" = default ] || export MKL_ENABLE_INSTRUCTIONS=$setting
    SETTING=$setting "$python" - <<'PY'
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

capability = torch.backends.cpu.get_cpu_capability()
print(f"torch {torch.__version__}, {capability}, MKL_ENABLE_INSTRUCTIONS {os.environ['SETTING']}")
if "AuthenticAMD" not in Path("/proc/cpuinfo").read_text() or capability != "AVX512":
    sys.exit("This is no AMD processor with AVX-512: nothing to see here.")
torch.set_num_threads(1)
torch.manual_seed(0)


def speed(product, operations):
    """10^9 operations a second of processor time, the best of nine."""
    times = []
    for _ in range(10):
        began = time.process_time()
        product()
        times.append(time.process_time() - began)
    return operations / min(times[1:]) / 1e9


for rows, inputs, outputs in ((800, 384, 1536), (2048, 2048, 2048)):
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    exact = F.linear(x.double(), weight.double(), bias.double())
    speeds, errors = [], []
    for product in (
        lambda: F.linear(x, weight, bias),
        lambda: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""),
    ):
        speeds.append(speed(product, 2 * rows * inputs * outputs))
        errors.append(float((product() - exact).abs().max()))
    print(f"{rows} x {inputs} -> {outputs}: {speeds[0]:.0f} and {speeds[1]:.0f}, "
          f"largest errors {errors[0]:.1e} and {errors[1]:.1e}")
    assert speeds[1] > 1.5 * speeds[0], "torch's products are no longer slow there"
    assert errors[1] < 1e-5 * float(exact.abs().max()), "the faster one is not in single precision"
PY
done
