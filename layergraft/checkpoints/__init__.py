"""Encoders in and out."""

from layergraft.checkpoints.encoder import load_encoder, save_encoder

__all__ = ["load_encoder", "save_encoder"]
