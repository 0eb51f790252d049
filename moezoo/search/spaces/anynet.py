"""AnyNet: stem, stages of timm's RegNet blocks, head. Any number of stages, each with its own numbers."""

from __future__ import annotations

import math
from typing import Any

from timm.layers import ClassifierHead, ConvNormAct
from timm.models.regnet import Bottleneck, RegStage
from torch import Tensor, nn

from moezoo.search.spaces.stages import Stages


class AnyNet(nn.Module):
    """A classifier of images whose state dict is that of timm's RegNet where there are four stages.

    Args:
        stages: Every stage halves the image's sides.
        se_ratio: Width of squeeze-and-excitation over a block's input; 0 for none. RegNetY has 0.25.
        stem_width: Channels of the stem.
        stem_stride: 2, or 1 for small images.
        in_chans: Channels of the image.
        num_classes: Classes.
        img_size: (height, width) that it is meant for; it takes any.
    """

    def __init__(
        self,
        stages: Stages,
        *,
        se_ratio: float = 0.0,
        stem_width: int = 32,
        stem_stride: int = 2,
        in_chans: int = 3,
        num_classes: int = 1000,
        img_size: tuple[int, int] = (224, 224),
    ):
        super().__init__()
        self.num_classes, self.num_features = num_classes, stages.widths[-1]
        self.pretrained_cfg: dict[str, Any] = plain_images(in_chans, img_size, num_classes)
        self.stem = ConvNormAct(in_chans, stem_width, 3, stride=stem_stride)
        before = stem_width
        for number, (width, depth, bottleneck, group) in enumerate(zip(*stages.columns(), strict=True), 1):
            stage = RegStage(
                depth,
                before,
                width,
                stride=2,
                dilation=1,
                bottle_ratio=1 / bottleneck,
                group_size=group,
                se_ratio=se_ratio,
            )
            self.add_module(f"s{number}", stage)
            before = width
        self.num_stages = len(stages.widths)
        self.head = ClassifierHead(before, num_classes, pool_type="avg")
        for module in self.modules():
            _init(module)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, num_classes)."""
        x = self.stem(images)
        for number in range(1, self.num_stages + 1):
            x = self.get_submodule(f"s{number}")(x)
        return self.head(x)


def plain_images(in_chans: int, img_size: tuple[int, int], num_classes: int) -> dict[str, Any]:
    """What a model says of its images where nothing else is known of them."""
    return {
        "input_size": (in_chans, *img_size),
        "mean": (0.5,) * in_chans,
        "std": (0.5,) * in_chans,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "num_classes": num_classes,
    }


def _init(module: nn.Module) -> None:
    """He's normal by what leaves a channel, within its group, and residual branches that begin at zero."""
    if isinstance(module, nn.Conv2d):
        leaving = module.out_channels * math.prod(module.kernel_size) // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / leaving))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
    elif isinstance(module, Bottleneck):
        module.zero_init_last()
