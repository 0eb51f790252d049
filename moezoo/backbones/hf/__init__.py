"""Backbones of the transformers library: built from a configuration, answering as a timm model does."""
