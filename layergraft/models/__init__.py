"""The networks: timm's Vision Transformer behind three verbs, MAE's decoder, heads and their momentum copies."""
