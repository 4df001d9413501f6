#!/usr/bin/env bash
# What transformers 5 saves of a vision tower, its version 4 loads as a network of fresh, random weights.
#
# Versions: transformers 5.24.0 writes, 4.57.6 reads (and 5.24.0, for comparison); torch of the Python that runs this.
# The guess that missed: a directory that `save_pretrained` wrote is read by the same class of another version, as the
# ViT's is (5 keeps the names on disk of 4 for it), or refused.
# Seen: 5.24 leaves `vision_model.` out of `CLIPVisionModel` and `SiglipVisionModel`, but not out of
# `CLIPVisionModelWithProjection`; of `ViTMSNForImageClassification` it writes `vit.` before the embeddings and not before
# the layers. 4.57 finds none of these tensors, warns, and goes on with random ones: 32 of SigLIP's 32.
# Needs a Python with torch: PYTHON=.venv/bin/python bash findings/transformers_names_of_towers.sh
set -euo pipefail
python=${PYTHON:-python3}; work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"$python" -m pip install --quiet --target "$work/five" --no-deps transformers==5.24.0 huggingface_hub==2.4.0 tokenizers==0.23.3
"$python" -m pip install --quiet --target "$work/four" --no-deps transformers==4.57.6 huggingface_hub==0.36.2 tokenizers==0.22.2
cat > "$work/models.py" <<'PY'
import torch
import transformers

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SHAPE |= {"image_size": 16, "patch_size": 8}
MODELS = {  # class -> its configuration
    "ViTModel": "ViTConfig",
    "CLIPVisionModel": "CLIPVisionConfig",
    "CLIPVisionModelWithProjection": "CLIPVisionConfig",
    "SiglipVisionModel": "SiglipVisionConfig",
    "ViTMSNForImageClassification": "ViTMSNConfig",
}
torch.manual_seed(0)
PY
cat > "$work/write.py" <<'PY'
from models import *
from safetensors import safe_open

for name, config in MODELS.items():
    getattr(transformers, name)(getattr(transformers, config)(**SHAPE)).save_pretrained(name)
    with safe_open(f"{name}/model.safetensors", "pt") as file:
        print(f"{transformers.__version__} wrote {name}:", sorted({key.partition('.')[0] for key in file.keys()}))
PY
cat > "$work/read.py" <<'PY'
import sys
from models import *

lost = []
for name in MODELS:
    _, info = getattr(transformers, name).from_pretrained(name, output_loading_info=True)
    print(f"{transformers.__version__} read {name}: {len(info['missing_keys'])} tensors not found, now random")
    lost += [name] * bool(info["missing_keys"])
assert lost == sys.argv[1].split(), lost
PY
export TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
cd "$work"
PYTHONPATH=five "$python" write.py
PYTHONPATH=five "$python" read.py ""
PYTHONPATH=four "$python" read.py "CLIPVisionModel SiglipVisionModel ViTMSNForImageClassification"
