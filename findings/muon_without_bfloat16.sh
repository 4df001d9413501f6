#!/usr/bin/env bash
# torch.optim.Muon and timm's Muon on a processor that does not multiply bfloat16: a step takes 25 times as long.
#
# Versions: torch of the Python that runs this (2.14.1), timm 1.0.31.
# The guess that missed: Muon's products in bfloat16 are, where nothing multiplies it in hardware, at worst as slow as in
# single precision: torch's float32 parameters ask for no bfloat16, and `torch.set_float32_matmul_precision` rules them.
# Seen, with AVX2 alone (most laptops; ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA stand for one here): both round the
# gradient to bfloat16 without an option to leave it, and the product falls back to code that is not tuned. The same
# iterations in float32 are quick there. With AVX512_BF16 it is the other way round: bfloat16 is 3 to 5 times as fast.
# Needs a Python with torch: PYTHON=.venv/bin/python bash findings/muon_without_bfloat16.sh
set -euo pipefail
python=${PYTHON:-python3}; work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"$python" -m pip install --quiet --target "$work/timm" --no-deps timm==1.0.31
cat > "$work/steps.py" <<'PY'
import time
import timm
import torch
from timm.optim.muon import Muon, zeropower_via_newtonschulz

torch.set_num_threads(1)
torch.manual_seed(0)
weight = torch.nn.Parameter(torch.randn(512, 512))
weight.grad = torch.randn(512, 512)


def seconds(step):
    """Processor time of a step, the least of three."""
    step()
    times = []
    for _ in range(3):
        began = time.process_time()
        step()
        times.append(time.process_time() - began)
    return min(times)


coefficients = [(3.4445, -4.7750, 2.0315)]
single = seconds(lambda: zeropower_via_newtonschulz(weight.grad, 5, coefficients, dtype=torch.float32))
print(f"torch {torch.__version__}, timm {timm.__version__}, {torch.backends.cpu.get_cpu_capability()}")
print(f"five iterations in float32: {1e3 * single:.0f} ms")
for name, optimizer in (("torch.optim.Muon", torch.optim.Muon([weight])), ("timm's Muon", Muon([weight]))):
    ratio = seconds(optimizer.step) / single
    print(f"a step of {name}: {ratio:.1f} times that")
    assert ratio > 8, f"{name} is no longer slow there"
PY
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 PYTHONPATH="$work/timm" "$python" "$work/steps.py"
