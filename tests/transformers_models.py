"""Small transformers vision models with random weights, one for each kind that must take adapters."""

import torch
import transformers as hf

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
SAM_VISION = {
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "mlp_dim": 64,
    "image_size": 64,
    "patch_size": 16,
    "output_channels": 32,
    "num_pos_feats": 16,
    "window_size": 2,
    "global_attn_indexes": [1, 3],
}
SAM = {
    "vision_config": SAM_VISION,
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 16},
    "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2, "mlp_dim": 32},
}


def sam2():
    backbone = hf.Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[64, 64],
        blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 2, 4],
        window_size_per_stage=[4, 2, 4, 2],
        global_attention_blocks=[4],
    )
    return hf.Sam2VisionModel(
        hf.Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=32)
    )


def sam3():
    backbone = hf.Sam3ViTConfig(**{**VIT, "image_size": 56, "patch_size": 14}, window_size=2, global_attn_indexes=[1])
    return hf.Sam3VisionModel(hf.Sam3VisionConfig(backbone_config=backbone, fpn_hidden_size=16))


STAGES = {"hidden_sizes": [8, 16, 32, 48], "depths": [1, 1, 2, 1]}
MAKERS = {
    "sam": lambda: hf.SamModel(hf.SamConfig(**SAM)),
    "sam_vision": lambda: hf.SamVisionModel(hf.SamVisionConfig(**SAM_VISION)),
    "sam2": sam2,
    "sam3": sam3,
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**VIT)),
    "dinov2_with_registers": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**VIT)),
    "dinov3_vit": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VIT, num_register_tokens=4)),
    "dinov3_convnext": lambda: hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(**STAGES, image_size=64)),
    "siglip": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**VIT)),
    "clip": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VIT)),
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**VIT)),
    "mae": lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**VIT)),
    "beit": lambda: hf.BeitModel(hf.BeitConfig(**VIT)),
    "swin": lambda: hf.SwinModel(
        hf.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 2], num_heads=[1, 2], window_size=4)
    ),
    "convnext": lambda: hf.ConvNextModel(hf.ConvNextConfig(**STAGES, image_size=64)),
    "resnet": lambda: hf.ResNetModel(
        hf.ResNetConfig(embedding_size=8, hidden_sizes=[16, 24, 32, 64], depths=[1, 1, 2, 2])
    ),
    "hiera": lambda: hf.HieraModel(
        hf.HieraConfig(embed_dim=16, image_size=[64, 64], depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8])
    ),
    "vitdet": lambda: hf.VitDetModel(
        hf.VitDetConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=64,
            pretrain_image_size=64,
            patch_size=16,
        )
    ),
    "ijepa": lambda: hf.IJepaModel(hf.IJepaConfig(**VIT)),
    "segformer": lambda: hf.SegformerModel(
        hf.SegformerConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 2, 1], num_attention_heads=[1, 1, 2, 4])
    ),
}
LAYOUTS = {
    "NHWC": ("sam", "sam_vision", "sam2", "sam3"),
    "NCHW": ("dinov3_convnext", "convnext", "resnet", "vitdet"),
}
BLOCKS = {"sam": 4, "sam_vision": 4, "sam2": 6, "swin": 3, "resnet": 6} | dict.fromkeys(
    ("dinov3_convnext", "convnext", "hiera", "segformer"), 5
)
"""How many blocks each has; three where nothing is said."""


def make(name):
    torch.manual_seed(0)
    model = MAKERS[name]().eval()
    for parameter in model.parameters():  # some start at zero or with deviations that no change survives
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model
