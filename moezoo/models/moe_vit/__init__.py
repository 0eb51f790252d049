"""A ViT whose MLPs are MoE layers in some blocks: what the families ``vmoe`` and ``soft_moe`` share."""
