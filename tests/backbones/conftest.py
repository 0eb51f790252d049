import pytest
import timm


@pytest.fixture
def tiny_vit():
    """timm's 6-block test ViT on 32 x 32 images."""
    return timm.create_model("test_vit", img_size=32, num_classes=5).eval()
