"""Features of files and folders, in batches and in constant memory."""

import gc
import weakref

import numpy as np
import pytest
import torch
from dataset_folders import photo, write
from PIL import Image
from reid_toys import ReidToy
from torch import nn

import moezoo
from moezoo.errors import ConfigError, DataError, InputError, OutputError
from moezoo.eval import embed_files, embed_stream, image_transform
from moezoo.eval.sightings import SightingReader, siblings, sighting_paths

THREE = ("RGB", "NIR", "TIR")


class Spectra(nn.Module):
    """Answers the mean of each modality; NaN for black images."""

    modalities = THREE
    pretrained_cfg = {"input_size": (3, 8, 4), "mean": (0.0,) * 3, "std": (1.0,) * 3}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.asked = []

    def forward(self, images, present=None):
        assert not self.training
        self.asked.append(None if present is None else present.tolist())
        found = self.scale * images.mean((2, 3, 4))
        return torch.where(found.sum(1, keepdim=True) == 0, torch.nan, found)


def solid(value, size=(4, 8)):
    return Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8))


@pytest.fixture(scope="module")
def sightings(tmp_path_factory):
    """Two folders of sightings, in both published ways; ``b`` lacks one spectrum, ``c`` is black."""
    root = tmp_path_factory.mktemp("sightings")
    for name, values in {"a": (51, 102, 153), "b": (51, 102, None), "c": (0, 0, 0), "d": (255, 0, 51)}.items():
        for kind, value in zip(("RGB", "NI", "TI"), values, strict=True):
            if value is not None:
                write(root / "rgbnt" / kind / f"{name}.png", solid(value))
    for kind, value in zip(("vis", "ni", "th"), (25, 50, 75), strict=True):
        write(root / "msvr" / "0001" / kind / "e.png", solid(value))
    return root


def test_sightings_are_put_together_from_their_folders(sightings):
    model = Spectra().train()
    found = embed_files(model, sightings / "rgbnt", batch_size=3)
    assert [path.rpartition("/")[2] for path in found.paths] == ["a.png", "d.png"]
    assert torch.allclose(found.features * 255, torch.tensor([[51.0, 102, 153], [255, 0, 51]]), atol=1e-3)
    assert [(path.rpartition("/")[2], why) for path, why in found.failures] == [
        ("b.png", "is not there in every modality: TIR missing"),
        ("c.png", "the model's answer is not finite (NaN)"),
    ]
    assert model.training
    with_missing = embed_files(model, sightings / "rgbnt", batch_size=2, allow_missing=True)
    assert torch.allclose(with_missing.features[1] * 255, torch.tensor([51.0, 102, 0]), atol=1e-3)
    assert [[True] * 3, [True, True, False]] in model.asked
    deep = embed_files(model, [sightings / "msvr"], recursive=True)
    assert torch.allclose(deep.features * 255, torch.tensor([[25.0, 50, 75]]), atol=1e-3)
    with pytest.raises(DataError, match=r"folders in it were left aside \(--recursive\)"):
        embed_files(model, sightings / "msvr")


def test_siblings_are_found_by_the_names_of_folders(sightings):
    root = sightings / "rgbnt"
    assert siblings(str(root / "TI" / "a.png"), THREE) == [str(root / kind / "a.png") for kind in ("RGB", "NI", "TI")]
    assert siblings("elsewhere/a.png", THREE) is None
    alone = sighting_paths([str(root)], ("RGB",), recursive=True)  # a model of one modality takes every file
    assert next(alone).endswith("NI/a.png")
    read = SightingReader(Spectra(), allow_missing=True)
    strip = np.concatenate([np.full((8, 16, 3), value, dtype=np.uint8) for value in (51, 102, 153)], axis=1)
    path = write(sightings / "strips" / "one.png", Image.fromarray(strip))
    images, present = read(str(path))
    assert present.all()
    assert torch.allclose(images.mean((1, 2, 3)) * 255, torch.tensor([51.0, 102, 153]), atol=1e-3)
    images, present = read(str(write(sightings / "strips" / "plain.png", solid(51))))
    assert present.tolist() == [True, False, False]
    assert not images[1:].any()


def test_any_model_s_features_are_what_its_classifier_sees(tmp_path):
    for i in range(5):
        write(tmp_path / f"{i}.png", photo(i, (16, 16)))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    model = moezoo.create_model("entity_moe/digits")
    seen = []
    found = embed_files(model, tmp_path, batch_size=2, progress=seen.append)
    assert found.failures[0][0].endswith("bad.png")
    assert seen == [2, 2, 2]
    images = torch.stack([image_transform(model)(Image.open(path)) for path in found.paths])
    with torch.no_grad():
        model.eval()
        want = model.forward_head(model.forward_features(images), pre_logits=True)
    assert torch.allclose(found.features, want, atol=1e-5)
    path = found.save(tmp_path / "all.npz")
    stored = np.load(path)
    assert np.array_equal(stored["features"], found.features.numpy())
    assert stored["paths"].tolist() == list(found.paths)
    assert [each.name for each in tmp_path.glob(".*")] == []
    with pytest.raises(OutputError, match="cannot be written"):
        found.save(tmp_path / "nowhere" / "all.npz")
    with pytest.raises(InputError, match=r"none of 1 files has features, the first: .*bad\.png"):
        embed_files(model, tmp_path / "bad.png")
    with pytest.raises(ConfigError, match="allow_missing=True is of models that take modalities"):
        embed_files(model, tmp_path, allow_missing=True)
    with pytest.raises(ConfigError, match="gives no features"):
        embed_files(nn.Flatten(), tmp_path, transform=image_transform(model))
    with pytest.raises(ConfigError, match="no pretrained_cfg"):
        embed_files(ReidToy(), tmp_path)


def test_an_endless_list_of_files_is_embedded_in_constant_memory(sightings):
    path = str(sightings / "rgbnt" / "RGB" / "a.png")
    held, alive = [], []

    class Watched(Spectra):
        def forward(self, images, present=None):
            held.append(weakref.ref(images))
            return super().forward(images, present)

    def endless():
        while True:
            yield path

    stream = embed_stream(Watched(), endless(), batch_size=4, threads=2)
    for number, each in zip(range(120), stream, strict=False):
        assert each.error is None
        if number % 40 == 39:
            gc.collect()
            alive.append(sum(ref() is not None for ref in held))
    stream.close()
    assert len(held) == 30
    assert max(alive) <= 2
