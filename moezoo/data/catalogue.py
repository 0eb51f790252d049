"""What is known of each data set without loading it: for ``moezoo data list`` and ``info``. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["labels", "captions", "re-ID"]
Source = Literal["included", "download", "url", "yours", "generated"]


@dataclass(frozen=True)
class Card:
    """One data set in a few words."""

    kind: Kind
    """What its items have beside the image."""
    source: Source
    """Where it comes from: with moezoo, by a download, from an address that you name, from your disk, drawn."""
    summary: str
    layout: str = ""
    """What lies where under ``root``."""
    terms: str = ""
    """What its authors ask for, or where to ask for it."""


CATALOGUE: dict[str, Card] = {
    "digits": Card("labels", "included", "1,797 handwritten digits of scikit-learn, 8 x 8, grey, 10 classes"),
    "cifar10": Card(
        "labels",
        "download",
        "60,000 photographs, 32 x 32, 10 classes; read only behind the published md5 sums",
        "cifar-10-batches-py/{data_batch_1,…,data_batch_5,test_batch,batches.meta}",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "cifar100": Card(
        "labels",
        "download",
        "60,000 photographs, 32 x 32, 100 classes; read only behind the published md5 sums",
        "cifar-100-python/{train,test,meta}",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "fashion_mnist": Card(
        "labels",
        "download",
        "70,000 pictures of clothes, 28 x 28, grey, 10 classes",
        "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte",
        "MIT licence, https://github.com/zalandoresearch/fashion-mnist",
    ),
    "image_folder": Card(
        "labels",
        "yours",
        "your images, a folder for each class, with or without parts",
        "{train,val,test}/<class>/*.jpg or <class>/*.jpg",
    ),
    "hf": Card(
        "labels",
        "yours",
        "a data set of Hugging Face datasets, from disk or by its id on the Hub",
        "path=: a folder of save_to_disk, of parquet files or images, or user/repo",
        "as its card says",
    ),
    "flickr8k": Card(
        "captions",
        "url",
        "8,000 photographs with five sentences each",
        "Flicker8k_Dataset/*.jpg and Flickr8k_text/Flickr8k.token.txt (or Flickr8k.token.txt), or Images/*.jpg and "
        "captions.txt; the lists Flickr_8k.{train,dev,test}Images.txt if you have them",
        "for research only; its authors ask for a form to be filled in, so name an address you may use",
    ),
    "market1501": Card(
        "re-ID",
        "url",
        "1,501 persons, six cameras",
        "{bounding_box_train,query,bounding_box_test}/0002_c1s1_000451_03.jpg",
        "for research only; ask its authors",
    ),
    "rgbnt201": Card(
        "re-ID",
        "url",
        "201 persons, four cameras, RGB with near and thermal infrared",
        "{train_171,test}/{RGB,NI,TI}/000258_cam1_0_00.jpg",
        "for research only; ask its authors",
    ),
    "rgbnt100": Card(
        "re-ID",
        "url",
        "100 vehicles, eight cameras, RGB with near and thermal infrared",
        "rgbir/{bounding_box_train,query,bounding_box_test}/0001_c1_….jpg, three pictures in one",
        "for research only; ask its authors",
    ),
    "msvr310": Card(
        "re-ID",
        "url",
        "310 vehicles, eight cameras, several scenes, RGB with near and thermal infrared",
        "{bounding_box_train,query3,bounding_box_test}/<vehicle>/{vis,ni,th}/0001_s001_v1_….jpg",
        "for research only; ask its authors",
    ),
    "cluttered_digits": Card("labels", "generated", "one digit among scraps of others, 64 x 64, its place known"),
    "shapes": Card("captions", "generated", "coloured shapes with true sentences, 64 x 64; held-out combinations"),
    "trispectral": Card("re-ID", "generated", "figures in three spectra, with cues of known spectrum and scale"),
}
