#!/usr/bin/env bash
# torch's fused attention on a processor that multiplies bfloat16 in hardware: its backward pass in bfloat16 takes 3 to 15
# times as long as that of the two products and the softmax that it stands for.
#
# Versions: torch of the Python that runs this (2.14.1), on a CPU with AVX512_BF16 (AMD EPYC of the Zen 5 kind).
# The guess that missed: `F.scaled_dot_product_attention` is never slower than `softmax(q @ k.T) @ v`, in 16 bits least of
# all; in float32 it is about as fast here, forwards and backwards.
# Seen, forward / backward in ms of one thread, fused and written out, all in bfloat16:
#   64 images, 4 heads,  17 tokens of 16:   0.7 / 12.3    0.4 /  0.8
#   32 images, 6 heads,  50 tokens of 64:   3.0 / 21.6    1.9 /  2.9
#   32 images, 6 heads, 197 tokens of 64:  28.4 / 77.6   14.7 / 22.9
# The 17 tokens take longer backwards than the same in float32 (0.7 ms), by a factor of 17. timm's `fused_attn` and
# `sdpa_kernel(SDPBackend.MATH)` leave the fused call out; the latter computes the products in float32.
# Needs a Python with torch: PYTHON=.venv/bin/python bash findings/fused_attention_bfloat16_cpu.sh
set -euo pipefail
python=${PYTHON:-python3}
"$python" - <<'PY'
import sys
import time

import torch
import torch.nn.functional as F

can = getattr(torch.cpu, "get_capabilities", dict)()
print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
if not can.get("avx512_bf16"):
    sys.exit("This processor does not multiply bfloat16 by AVX-512: nothing to see here.")
torch.set_num_threads(1)
torch.manual_seed(0)


def written_out(q, k, v):
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v


def backward_seconds(attention, images, heads, tokens, width, dtype):
    """Processor time of a backward pass, the least of five."""
    qkv = torch.randn(images, tokens, 3, heads, width, dtype=dtype).permute(2, 0, 3, 1, 4)
    q, k, v = (part.detach().requires_grad_() for part in qkv)
    times = []
    for _ in range(6):
        out = attention(q, k, v)
        gradient = torch.ones_like(out)
        began = time.process_time()
        out.backward(gradient)
        times.append(time.process_time() - began)
    return min(times[1:])


for shape in ((64, 4, 17, 16), (32, 6, 50, 64), (32, 6, 197, 64)):
    ratios = {}
    for dtype in (torch.float32, torch.bfloat16):
        fused = backward_seconds(F.scaled_dot_product_attention, *shape, dtype)
        ratios[dtype] = fused / backward_seconds(written_out, *shape, dtype)
    print(f"{shape}: fused backward takes {ratios[torch.float32]:.2f} of written out in float32, "
          f"{ratios[torch.bfloat16]:.1f} in bfloat16")
    assert ratios[torch.bfloat16] > 2, "fused attention in bfloat16 is no longer slow there"
    assert ratios[torch.float32] < 2.5, "nor is it quick in float32"
PY
