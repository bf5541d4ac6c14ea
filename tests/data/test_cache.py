"""Image cache: identical batches, and the announced size."""

import pickle
from collections import namedtuple

import pytest
import torch

from libradet.data import cache as module
from libradet.data.cache import ImageCache, cache_bytes, check_free_space
from libradet.data.loader import make_loader
from libradet.data.read import read
from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from tests.helpers.data_building import damaged, write

SIZE = (72, 120)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    synthesize(root, train=7, val=1, size=(96, 72), classes=3)
    return read(root, "train")[0]


def batches(dataset, epochs=(0, 1, 2), **options):
    loader = make_loader(dataset, size=SIZE, batch_size=2, size_divisible=32, seed=5, **options)
    for epoch in epochs:
        loader.batch_sampler.set_epoch(epoch)
        yield from loader


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_cached_batches_are_identical(dataset, tmp_path, kind, workers, training):
    kept = ImageCache(dataset, SIZE, tmp_path / "x.cache" if kind == "disk" else None)
    plain = batches(dataset, training=training)
    cached = batches(dataset, training=training, num_workers=workers, cache=kept)
    for a, b in zip(plain, cached, strict=True):
        assert all((x is None and y is None) or x.equal(y) for x, y in zip(a, b, strict=True))
    assert all(kept.get(index) is not None for index in range(len(dataset))), "workers share one cache"


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_files_are_read_once(tmp_path, kind):
    dataset, _ = read(write(tmp_path))
    kept = ImageCache(dataset, SIZE, tmp_path / "x.cache" if kind == "disk" else None)
    first = list(batches(dataset, [0], training=True, cache=kept))
    for image in dataset.images:
        image.path.unlink()
    again = list(batches(dataset, [0], training=True, cache=kept))
    assert all(a.images.equal(b.images) for a, b in zip(first, again, strict=True))


def test_cache_file_has_the_announced_size_and_is_deleted(dataset, tmp_path):
    file = tmp_path / "x.cache"
    file.write_bytes(b"of a run that was killed")
    kept = ImageCache(dataset, SIZE, file)
    assert file.stat().st_size == cache_bytes([dataset], SIZE)
    assert kept.get(0) is None
    del kept
    assert not file.exists()


def test_another_process_maps_the_same_file(dataset, tmp_path):
    kept = ImageCache(dataset, SIZE, tmp_path / "x.cache")
    image = torch.randint(0, 255, (3, *kept.shapes[3]), dtype=torch.uint8)
    pickle.loads(pickle.dumps(kept)).put(3, image)
    assert kept.get(3).equal(image)
    assert kept.get(2) is None


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_too_little_space_is_refused_in_advance(dataset, tmp_path, monkeypatch, kind):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(UserError, match=f"--cache {kind} needs 0.1 MB, .* has 0.0 MB free"):
        ImageCache(dataset, SIZE, tmp_path / "x.cache" if kind == "disk" else None)
    assert not list(tmp_path.iterdir())
    check_free_space(kind, 1000, tmp_path / "not" / "yet" / "there")


def test_missing_image_is_reported_with_a_cache(tmp_path):
    dataset, _ = read(damaged(tmp_path, lambda content: content["images"].reverse()))
    dataset.images[0].path.unlink()
    with pytest.raises(UserError, match=r"p3\.png: the image is missing"):
        list(batches(dataset, [0], training=True, cache=ImageCache(dataset, SIZE)))
