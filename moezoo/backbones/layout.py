"""Reading off a trace how a block's output lies: which axis holds the channels, and where the tokens' grid is."""

from __future__ import annotations

import math

from torch import Tensor, nn

from moezoo.backbones.blocks import hook_and_holder
from moezoo.backbones.site import Block, Layout, Site
from moezoo.backbones.stages import StageInfo, feature_stages
from moezoo.backbones.trace import BATCH, Trace
from moezoo.errors import InjectionError

MAX_PREFIX = 32
"""Most tokens before the grid that are taken for class or register tokens."""


def candidate_sites(traced: Trace, block: Block, position: int) -> list[Site]:
    """The sites a block offers: one, or one per usable element of a tuple output.

    Raises:
        InjectionError: The block ran more than once, not at all, or returns no feature tensor of the batch.
    """
    module, holder = hook_and_holder(traced, block.name)
    if not traced.called_once(module):
        times = len(traced.calls.get(module, ()))
        raise InjectionError(f"{module!r} runs {times} times in a forward; an adapter needs a module that runs once.")
    output = traced.calls[module][0].output
    elements = list(enumerate(output)) if isinstance(output, (tuple, list)) else [(None, output)]
    sites = []
    for index, feature in elements:
        if isinstance(feature, Tensor) and feature.dim() in (3, 4) and feature.shape[0] == BATCH:
            layout = read_layout(traced, block, feature)
            if layout is not None:
                grid, prefix = _grid(traced, block, feature, layout)
                dim = feature.shape[1] if layout == "NCHW" else feature.shape[-1]
                sites.append(Site(block, position, module, holder, index, layout, dim, grid, prefix))
    if not sites:
        shapes = [tuple(t.shape) for t in traced.outputs(module)]
        raise InjectionError(f"{module!r} returns no feature map or token sequence of the batch (shapes {shapes}).")
    # Of several maps first the deepest: in a network of parallel resolutions the one with most channels on the fewest
    # positions.
    return sorted(sites, key=lambda s: (-s.dim, math.prod(s.grid or (0,))))


def read_layout(traced: Trace, block: Block, feature: Tensor) -> Layout | None:
    """Which axis of ``feature`` holds the channels, by four witnesses in turn; ``None`` when none can tell.

    The channels that timm states for the stage, the only axis of another length than two equal ones, the model's
    ``output_fmt``, and the modules inside the block.
    """
    shape = feature.shape
    stage = _stage_of(traced, block)
    channels = stage.channels if stage else None
    if feature.dim() == 3:
        last, middle = shape[2] == channels, shape[1] == channels
        if last != middle:
            return "NLC" if last else None
        return "NLC" if _votes(traced, block.name, feature)[0] > 0 else None
    if (shape[1] == channels) != (shape[3] == channels):
        return "NCHW" if shape[1] == channels else "NHWC"
    square_nchw, square_nhwc = shape[2] == shape[3] != shape[1], shape[1] == shape[2] != shape[3]
    if square_nchw != square_nhwc and traced.input_size[1] == traced.input_size[2]:
        return "NCHW" if square_nchw else "NHWC"
    stated = str(getattr(getattr(traced.model, "output_fmt", ""), "value", getattr(traced.model, "output_fmt", "")))
    if stated in ("NCHW", "NHWC"):
        return stated  # type: ignore[return-value]
    last_votes, second_votes = _votes(traced, block.name, feature)
    if last_votes == second_votes:
        return None
    return "NHWC" if last_votes > second_votes else "NCHW"


def _votes(traced: Trace, block: str, feature: Tensor) -> tuple[int, int]:
    """How many modules of the block take channels last, and how many take them second, at the rank of ``feature``."""
    last = second = 0
    for name, calls in traced.calls.items():
        if name != block and not name.startswith(block + "."):
            continue
        module = traced.model.get_submodule(name)
        inputs = calls[-1].inputs
        if not inputs or inputs[0].dim() != feature.dim():
            continue
        kind = type(module).__name__
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)) or kind.endswith(
            "2d"
        ):
            second += 1
        elif isinstance(module, (nn.Linear, nn.LayerNorm)) or "RMSNorm" in kind:
            last += 1
    return last, second


def _stage_of(traced: Trace, block: Block) -> StageInfo | None:
    """The stage timm describes whose output is at the end of this block's stage."""
    for stage in feature_stages(traced.model):
        if block.name == stage.module or block.name.startswith(stage.module + ".") or block.stage_name == stage.module:
            return stage
    return None


def _grid(traced: Trace, block: Block, feature: Tensor, layout: Layout) -> tuple[tuple[int, int] | None, int]:
    if layout == "NHWC":
        return (feature.shape[1], feature.shape[2]), 0
    if layout == "NCHW":
        return (feature.shape[2], feature.shape[3]), 0
    if getattr(getattr(traced.model, "config", None), "mask_ratio", 0):
        return None, 0  # some patches at random (MAE), which lie on no grid
    length = feature.shape[1]
    _, height, width = traced.input_size
    stage = _stage_of(traced, block)
    guesses = []
    if stage is not None and stage.reduction:
        guesses.append((math.ceil(height / stage.reduction), math.ceil(width / stage.reduction)))
    patch_grid = getattr(getattr(traced.model, "patch_embed", None), "grid_size", None)
    if patch_grid is not None:
        guesses.append((int(patch_grid[0]), int(patch_grid[1])))
    for extra in dict.fromkeys((int(getattr(traced.model, "num_prefix_tokens", 0)), 0, 1, 2, 4, 5)):
        rows = math.isqrt(max(length - extra, 0) * height // width)
        if rows and rows * (rows * width // height) == length - extra:
            guesses.append((rows, rows * width // height))
    for rows, columns in guesses:
        if 0 <= length - rows * columns <= MAX_PREFIX:
            return (rows, columns), length - rows * columns
    return None, 0
