"""Small models and the publishing of a backbone's weights on the loopback Hub."""

import pytest
import timm
import torch
from safetensors.torch import save


@pytest.fixture
def publish(hub):
    """``publish(arch)`` puts random weights where timm looks for the architecture's; returns the timm model.

    ``change`` maps the state dict to the one that is published instead; further arguments are timm's.
    """

    def put(arch, change=lambda state: state, **kwargs):
        torch.manual_seed(5)
        model = timm.create_model(arch, **kwargs).eval()
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)  # some heads start at zero and would tell nothing apart
        state = change({key: value.contiguous() for key, value in model.state_dict().items()})
        hub.put(model.pretrained_cfg["hf_hub_id"].partition("@")[0], {"model.safetensors": save(state)})
        return model

    return put
