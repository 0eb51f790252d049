"""Models for ``torch.hub.load(repo, name)``: ``create_model``, and every registered model under timm's spelling.

``torch.hub.load("user/moezoo", "entity_moe_vit_base", pretrained=True, num_classes=10)``; a variant follows a dot.
"""

from __future__ import annotations

import functools

import moezoo

create_model = moezoo.create_model
dependencies = ["torch", "torchvision", "timm", "transformers", "safetensors", "huggingface_hub", "yaml", "pydantic"]


def _entrypoint(name):
    entrypoint = functools.update_wrapper(functools.partial(create_model, name), create_model)
    entrypoint.__doc__ = f"{name!r}, by create_model.\n\n{create_model.__doc__}"
    return entrypoint


# torch.hub looks entrypoints up as attributes of this module.
for _name in moezoo.list_models():
    for _spelling in {_name, _name.partition(".")[0]}:
        globals()[_spelling.replace("/", "_", 1)] = _entrypoint(_spelling)
