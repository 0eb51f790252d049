"""Injection: an adapter becomes a child of the block it follows, and one importable hook applies it.

Nothing is wrapped or replaced, so every key, type and attribute of the backbone stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from moezoo.backbones.blocks import find_blocks, other_modules
from moezoo.backbones.groups import keep_in_host_groups
from moezoo.backbones.hf.encoder import vision_part
from moezoo.backbones.layout import candidate_sites
from moezoo.backbones.site import Site
from moezoo.backbones.trace import Trace, attempt, fake_copy, model_input_size, run_fake, trace
from moezoo.backbones.where import select_blocks
from moezoo.config import decode
from moezoo.errors import ConfigError, InjectionError
from moezoo.moe.aux import mark_root
from moezoo.parts import adapters

MARK = "moezoo_adapter"
"""Attribute of a hooked module: the path of its adapter, relative to it."""
INJECTED = "moezoo_injected"
"""Attribute of a model that :func:`inject_moe` was applied to: an :class:`Injected`."""


@dataclass(frozen=True)
class AdapterKind:
    """One kind of adapter, registered by name in :data:`moezoo.parts.adapters`."""

    child: str
    """Name of the child module; it appears in every parameter's name."""
    config: type
    build: Callable[[Any, Site, int], nn.Module]
    """``build(config, site, i)`` for the i-th of the chosen sites: a module that maps features to features."""
    check: Callable[[Any, Sequence[Site]], None]
    """Raises when ``config`` does not fit the chosen sites."""
    annotate: Callable[[nn.Module, Any, Sequence[Site]], None]
    """Notes on the model what was injected."""
    family: str | None = None
    """The model family whose configuration has these fields and ``inject_layers``, for saving an injected model."""

    def inject(self, model: nn.Module, where: Any, config: Any, input_size: tuple[int, int, int] | None) -> None:
        """Put such adapters into ``model``, in place; ``config`` is one of :attr:`config`."""
        inject(model, where, self, config, input_size)


@dataclass(frozen=True)
class Injected:
    """What :func:`inject_moe` was told, in plain data."""

    adapter: str
    where: Any
    """Names in it are those of the part that sees images."""
    config: Any


def inject_moe(
    model: nn.Module,
    where: Any = "last",
    *,
    adapter: str | None = None,
    input_size: tuple[int, int, int] | None = None,
    **config: Any,
) -> nn.Module:
    """Inject MoE adapters into a vision model, or let its own MLPs route their tokens, in place.

    At step 0 the model computes bit for bit what it did before.

    ``router="threshold"`` means token routing: in the blocks at ``where`` a token gets the block's own MLP, or a small
    one made from it, by the class token's attention to it or a learned score. The model then has ``set_budget(share)``
    and ``set_threshold(value)``; at a budget of 1, the default, it is the model that was given. The fields are those
    of :class:`~moezoo.backbones.tokens.config.TokenRoutingConfig`: ``small_ratio``, ``score``, ``budget``, ….

    Args:
        model: A timm model, a transformers model (its image encoder is meant: of SAM, CLIP, …), or your own.
        where: Which blocks; see :func:`moezoo.backbones.where.select_blocks`.
        adapter: The registered kind: ``entity`` or ``token_routing``. ``None`` means ``entity``, or with
            ``router="threshold"`` token routing; EntityMoE with the router of that name is ``adapter="entity"``.
        input_size: (C, H, W) of an image, where the model does not say it itself.
        **config: Fields of the adapter's configuration, such as ``num_experts=8``.

    Returns:
        The same object.

    Raises:
        InjectionError: A place does not exist, the model was injected before, or an adapter there would have no effect.
            The model is left as it was.
        ConfigError: A field of the configuration is unknown or out of range.
    """
    if adapter is None:
        adapter = "token_routing" if config.get("router") == "threshold" else "entity"
    kind: Any = adapters.get(adapter)
    _check_injectable(model)
    options: Any = decode(kind.config, config, where=f"inject_moe({adapter!r})")
    kind.inject(model, where, options, input_size)
    setattr(model, INJECTED, Injected(adapter, names_inside(where, vision_part(model)[0]), options))
    return model


@torch.inference_mode(False)  # adapters are to be trained, wherever they were added
def inject(
    model: nn.Module, where: Any, kind: AdapterKind, config: Any, input_size: tuple[int, int, int] | None = None
) -> nn.Module:
    """:func:`inject_moe` with everything decoded."""
    path, part = vision_part(model)
    sites = find_sites(part, names_inside(where, path), input_size)
    kind.check(config, sites)
    _check_free(part, sites, kind.child)
    built = [_build_like(part, kind, config, site, i) for i, site in enumerate(sites)]
    for site, module in zip(sites, built, strict=True):
        attach(part.get_submodule(site.module), site.holder, kind.child, module)
    kind.annotate(part, config, sites)
    keep_in_host_groups(part, {".".join(filter(None, (s.module, s.holder, kind.child))): s.module for s in sites})
    mark_root(part)
    mark_root(model)
    return model


def names_inside(where: Any, path: str) -> Any:
    """``where`` with names of the whole model (``vision_encoder.layers.3``) as names of its part at ``path``."""
    if isinstance(where, str) and path:
        return where.removeprefix(f"{path}.")
    return [names_inside(place, path) for place in where] if isinstance(where, list) else where


def find_sites(model: nn.Module, where: Any, input_size: tuple[int, int, int] | None = None) -> list[Site]:
    """The sites ``where`` stands for, each checked to run once per forward and to reach the model's output.

    Raises:
        InjectionError: See :func:`inject_moe`.
    """
    for name in adapters_of(model):
        raise InjectionError(f"the model already has an adapter, {name!r}; inject once, with every place in one list.")
    traced = trace(model, model_input_size(model, input_size))
    blocks = find_blocks(traced)
    others = other_modules(traced, blocks)
    places = [*blocks, *others]
    candidates = [candidate_sites(traced, places[i], i) for i in select_blocks(blocks, where, others)]
    hooked = [options[0].module for options in candidates]
    for module in hooked:
        if hooked.count(module) > 1:
            raise InjectionError(f"where={where!r} chooses {module!r} twice, once as the end of a module around it.")
    return choose_connected(model, traced, candidates)


def choose_connected(model: nn.Module, traced: Trace, candidates: list[list[Site]]) -> list[Site]:
    """For each block the first candidate whose change reaches the output, proved by a gradient on fake tensors."""
    chosen = [options[0] for options in candidates]
    tried = 0
    while True:
        alive = _reaches_output(model, traced, chosen)
        if all(alive):
            return chosen
        tried += 1
        for i, ok in enumerate(alive):
            if not ok and tried >= len(candidates[i]):
                raise InjectionError(
                    f"an adapter at {chosen[i].module!r} would have no effect: nothing it returns reaches the model's "
                    "output."
                )
        chosen = [site if ok else candidates[i][tried] for i, (site, ok) in enumerate(zip(chosen, alive, strict=True))]


def attach(hooked: nn.Module, holder: str, child: str, adapter: nn.Module) -> None:
    """Make ``adapter`` a child of the module at ``holder`` inside ``hooked``, and apply it to ``hooked``'s output."""
    hooked.get_submodule(holder).add_module(child, adapter)
    setattr(hooked, MARK, f"{holder}.{child}" if holder else child)
    # First of all hooks, so that every observer (feature hooks, hidden_states) sees the adapted output.
    hooked.register_forward_hook(apply_adapter, prepend=True)


def apply_adapter(hooked: nn.Module, args: tuple, output: Any) -> Any:
    """The forward hook: the adapter's features in place of the block's. Importable, so that models pickle."""
    adapter: Any = hooked.get_submodule(getattr(hooked, MARK))
    index = adapter.site.output_index
    if index is None:
        return adapter(output)
    changed = [adapter(part) if i == index else part for i, part in enumerate(output)]
    return type(output)(*changed) if hasattr(output, "_fields") else type(output)(changed)


def adapters_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every injected adapter by its path in the model."""
    paths = [f"{name}.{getattr(m, MARK)}".removeprefix(".") for name, m in model.named_modules() if hasattr(m, MARK)]
    return {path: model.get_submodule(path) for path in paths}


class _Probe(nn.Module):
    """Stands in for an adapter: counts its calls and adds a zero that carries a gradient."""

    def __init__(self, site: Site, device: torch.device):
        super().__init__()
        self.site = site
        self.calls = 0
        self.scale = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, feature: Tensor) -> Tensor:
        self.calls += 1
        return feature + self.scale.to(feature.dtype)


def _reaches_output(model: nn.Module, traced: Trace, sites: list[Site]) -> list[bool]:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = fake_copy(model, mode)
    device = next((p.device for p in fake.parameters()), torch.device("cpu"))
    with mode:
        probes = [_Probe(site, device) for site in sites]
    for site, probe in zip(sites, probes, strict=True):
        attach(fake.get_submodule(site.module), site.holder, "moezoo_probe", probe)
    with torch.enable_grad():
        output = attempt(lambda: run_fake(fake, traced.input_size, mode), traced.input_size)
        with mode:
            floats = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
            total = sum((t.float().sum() for t in floats), torch.zeros((), device=device, requires_grad=True))
            grads = torch.autograd.grad(total, [p.scale for p in probes], allow_unused=True)
    for site, probe in zip(sites, probes, strict=True):
        if probe.calls != 1:
            raise InjectionError(
                f"an adapter at {site.module!r} would run {probe.calls} times per forward; choose another block."
            )
    return [grad is not None for grad in grads]


def _check_injectable(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InjectionError(f"model={model!r:.80} is not allowed: inject_moe takes a torch.nn.Module.")
    if isinstance(model, (torch.jit.ScriptModule, torch._dynamo.OptimizedModule)):
        raise InjectionError(
            f"inject_moe takes the model as it was before it was compiled or scripted, got {type(model).__name__}."
        )


def _check_free(model: nn.Module, sites: Sequence[Site], child: str) -> None:
    """Raise before anything is attached, so that a refusal leaves the model as it was."""
    for site in sites:
        parent = model.get_submodule(site.module).get_submodule(site.holder)
        if hasattr(parent, child):
            raise InjectionError(f"{site.module!r} ({type(parent).__name__}) already has an attribute {child!r}.")


def _build_like(model: nn.Module, kind: AdapterKind, config: Any, site: Site, i: int) -> nn.Module:
    """The adapter of a site with the device and dtype of the block there, or the model's if the block has none."""
    candidates = [*model.get_submodule(site.module).parameters(), *model.parameters()]
    floats = [p for p in candidates if p.is_floating_point()]
    if candidates and not floats:
        raise ConfigError(f"adapters need floating-point weights, this model has {candidates[0].dtype}.")
    like = floats[0] if floats else torch.zeros((), device="cpu")
    with like.device:  # also where the caller has set another default device
        return kind.build(config, site, i).to(device=like.device, dtype=like.dtype).train(model.training)
