"""What every model that stands on a timm or transformers backbone must be."""

import pytest
import torch
from contract_models import distinct_when_small, has_backbone, images_for, is_classifier, is_upcycled, tiny_overrides

import moezoo
from moezoo.backbones.create import create_backbone

NAMES = [name for name in distinct_when_small(moezoo.list_models()) if has_backbone(name)]


@pytest.mark.parametrize("name", NAMES)
def test_starts_as_its_backbone(name):
    torch.manual_seed(0)
    model = moezoo.create_model(name, **tiny_overrides(name)).eval()
    backbone = create_backbone(model.moezoo_config).eval()
    missing, unexpected = model.load_state_dict(backbone.state_dict(), strict=False)
    assert not unexpected
    assert all(".entity_moe." in key for key in missing)
    if hasattr(model, "set_budget"):
        model.set_budget(1.0)
    images = images_for(model)
    if is_upcycled(model.moezoo_config):
        assert not missing
        if getattr(model, "upcycle_report", None) is None or model.upcycle_report.preserved:
            torch.testing.assert_close(model(images), backbone(images), rtol=1e-4, atol=1e-5)
        return
    if is_classifier(name):
        assert torch.equal(model(images), backbone(images))
    else:
        assert torch.equal(model(images).pred_masks, backbone(images).pred_masks)
