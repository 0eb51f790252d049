"""Backbones: find the blocks of any vision model, inject adapters after them, take features out."""
