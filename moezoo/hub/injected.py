"""Which configuration rebuilds a model: its own, or for a backbone with injected adapters one made up for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.backbones.hf.config import IMAGE_PROCESSOR, completed
from moezoo.backbones.hf.encoder import is_transformers
from moezoo.backbones.hf.names import is_hf
from moezoo.backbones.inject import INJECTED, Injected
from moezoo.backbones.live import live_options
from moezoo.backbones.timm_models import is_architecture, weight_tags
from moezoo.backbones.tokens.route import current_routing
from moezoo.backbones.upcycled import UpcycledMLP
from moezoo.config import override, to_dict
from moezoo.errors import ConfigError, InputError, MoeZooError
from moezoo.hub.header import compare, model_shapes
from moezoo.moe.modes import evaluating
from moezoo.parts import adapters
from moezoo.registry import build, model_config


@dataclass(frozen=True)
class Origin:
    """How a model is built again."""

    name: str
    config: Any
    data: Any
    """timm's ``pretrained_cfg``, or what takes its place."""
    weights: str
    """As ``model.weights_origin``."""


def origin_of(model: nn.Module, backbone: str | None = None, backbone_args: Mapping[str, Any] | None = None) -> Origin:
    """The configuration of a model that moezoo built, or one for a model that ``inject_moe`` was applied to.

    The second is proved: it is built, given the model's weights, and must answer an image as the model does.

    Args:
        backbone, backbone_args: See :func:`moezoo.save_pretrained`.

    Raises:
        InputError: There is none, or it builds another model; the text says what would help.
    """
    name, config = getattr(model, "moezoo_name", None), getattr(model, "moezoo_config", None)
    if isinstance(name, str) and config is not None:
        if backbone is not None or backbone_args is not None:
            raise ConfigError(f"backbone={backbone!r} is not allowed: {name!r} knows its backbone.")
        # What is written has to be readable: the name leads to this very kind of configuration.
        if not isinstance(config, type(model_config(name))):
            raise ConfigError(f"moezoo_name={name!r} does not belong to a {type(config).__name__}")
        return Origin(name, config, getattr(model, "pretrained_cfg", None), str(getattr(model, "weights_origin", "")))
    injected: Any = getattr(model, INJECTED, None)
    family = adapters.get(injected.adapter).family if isinstance(injected, Injected) else None
    if family is None:
        raise InputError(
            "save_pretrained takes a model that moezoo built, so that its config can rebuild it; "
            f"{type(model).__name__} has no moezoo_config. Build it by moezoo.create_model, apply moezoo.inject_moe to "
            "a timm or transformers model, or use safetensors.torch.save_model for the bare weights."
        )
    try:
        made = _of_transformers if is_transformers(model) else _of_timm
        name, config, weights = made(model, family, injected, backbone, backbone_args)
        return Origin(name, config, _proved(model, config), weights)
    except InputError:
        raise
    except (MoeZooError, RuntimeError, TypeError) as error:
        raise _not_rebuilt(model, str(error)) from error


def refuse_upcycled(model: nn.Module, what: str = "save_pretrained") -> None:
    """Raise for a model whose own MLPs became experts, unless its configuration says so."""
    if getattr(getattr(model, "moezoo_config", None), "upcycles", False):
        return
    for name, module in model.named_modules():
        if isinstance(module, UpcycledMLP):
            raise InputError(
                f"{what} cannot store an upcycled model ({name!r} was an MLP): no configuration rebuilds it. "
                "moezoo.create_model('vmoe/<timm architecture>') makes one that is stored; "
                "safetensors.torch.save_model keeps the bare weights; upcycle the same backbone again and load them "
                "with safetensors.torch.load_model."
            )


def _of_timm(
    model: Any, family: str, injected: Injected, backbone: str | None, args: Mapping[str, Any] | None
) -> tuple[str, Any, str]:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    cfg = cfg if isinstance(cfg, Mapping) else vars(cfg)
    arch = backbone or cfg.get("architecture")
    if not isinstance(arch, str) or not is_architecture(arch):
        raise InputError(
            f"the injected {type(model).__name__} does not say which backbone it is (got {arch!r}): pass "
            "backbone='<timm architecture>', and what it was created with as backbone_args=."
        )
    tag = cfg.get("tag")
    fields = {
        **_fields(model, injected),
        "num_classes": live_options(model)["num_classes"],
        "in_chans": _channels(model, cfg),
        "backbone_tag": tag if tag in weight_tags(arch) else None,
        "backbone_args": dict(args or {}),
    }
    config = override(model_config(f"{family}/{arch}"), fields)
    # Size and pooling are said only where the architecture would have another.
    with torch.device("meta"):
        usual = live_options(build(config))
    live = live_options(model)
    changed = {key: live[key] for key in ("img_size", "global_pool") if live[key] != usual[key]}
    return f"{family}/{arch}", override(config, changed), "fresh"


def _of_transformers(
    model: Any, family: str, injected: Injected, backbone: str | None, args: Mapping[str, Any] | None
) -> tuple[str, Any, str]:
    said = str(backbone or model.config.name_or_path or "")
    repo = said if said.startswith("hf:") else f"hf:{said}"
    published = is_hf(repo) and not Path(said).exists()
    # Nothing is ever fetched under this name: the configuration beside it is complete.
    name = f"{family}/{repo if published else f'hf:unpublished/{model.config.model_type}'}"
    config = completed(model_config(name), json.loads(model.config.to_json_string(use_diff=False)), None)
    classes = model.config.num_labels if type(model).__name__.endswith("ForImageClassification") else 0
    arguments = {**config.backbone_args, **(args or {})}
    config = override(config, {**_fields(model, injected), "num_classes": classes, "backbone_args": arguments})
    return name, config, f"backbone:{repo}" if published else "fresh"


def _fields(model: nn.Module, injected: Injected) -> dict[str, Any]:
    """What was injected, as fields of the family's configuration, with the dials as they are now."""
    where = injected.where
    if isinstance(where, tuple):  # alone it is a (stage, block) pair, in a configuration a list of places
        where = [list(where)]
    return {
        **to_dict(current_routing(model, injected.config)),
        "inject_layers": list(where) if isinstance(where, range) else where,
    }


def _channels(model: nn.Module, cfg: Mapping[str, Any]) -> int | None:
    """Channels of the image, read off the layer that timm says sees it."""
    first = cfg.get("first_conv") or ()
    modules = dict(model.named_modules())
    for name in (first,) if isinstance(first, str) else first:
        if isinstance(conv := modules.get(name), nn.Conv2d):
            return conv.in_channels
    return (cfg.get("input_size") or (None,))[0]


@contextmanager
def _aside() -> Iterator[None]:
    """Building and trying a second model leaves no trace in the random state."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
        yield


def _proved(model: Any, config: Any) -> Any:
    """How images are prepared, of a twin that was built from ``config`` and computes what ``model`` does."""
    with torch.device("meta"):
        compare(model_shapes(build(config)), model_shapes(model), f"what {type(model).__name__} holds")
    with _aside():
        like = next(p for p in model.parameters() if p.is_floating_point())
        with torch.device("cpu"):
            twin = build(config)
        twin.load_state_dict(model.state_dict())
        twin.to(device=like.device, dtype=like.dtype).eval()
        images = torch.rand(1, *twin.pretrained_cfg["input_size"]).to(like)
        with evaluating(model):
            theirs = _answer(model(pixel_values=images) if is_transformers(model) else model(images))
        ours = _answer(twin(images))
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True):
            raise _not_rebuilt(model, "it has the same weights and computes something else")
    data = dict(twin.pretrained_cfg)
    if is_transformers(model) and IMAGE_PROCESSOR not in config.backbone_args:
        data |= {"mean": None, "std": None}  # the model itself does not know them
    return data


def _answer(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    names = ("logits", "pred_masks", "pooler_output", "last_hidden_state")
    return next(value for name in names if isinstance(value := getattr(output, name, None), Tensor))


def _not_rebuilt(model: nn.Module, why: str) -> InputError:
    return InputError(
        f"the injected {type(model).__name__} cannot be rebuilt from its configuration: {why}. Pass what its backbone "
        "is and was created with, backbone='<timm architecture>', backbone_args={'patch_size': …}; of transformers, "
        "image classifiers and SAM can be rebuilt."
    )
