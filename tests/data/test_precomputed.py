"""Precomputed proposals: matching to images, and transforms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from libradet.data.loader import make_loader
from libradet.data.proposals.precomputed import (
    NO_ROW,
    proposals_for_dataset,
    proposals_for_images,
    resolve_proposal_file,
)
from libradet.data.proposals.proposal_file import ImageProposals, write_proposals
from libradet.data.read import read
from libradet.data.transforms.augmentation import Augmentation
from libradet.errors import UserError
from tests.helpers.data_building import SIZES, records, sample_image, write
from tests.helpers.proposals import assert_refused, boxes_by_image, random_proposals, same_boxes


@pytest.fixture
def dataset(tmp_path):
    return read(write(tmp_path / "set"))[0]


def test_best_proposals_are_kept(dataset, tmp_path):
    found = random_proposals(dataset)
    mixed = [p._replace(boxes=p.boxes[::-1].copy(), scores=p.scores[::-1].copy()) for p in found]
    write_proposals(tmp_path / "x.safetensors", mixed, "rpn")
    precomputed = proposals_for_dataset(tmp_path / "x.safetensors", dataset, 2)
    assert precomputed.num_proposals == 2
    assert same_boxes(boxes_by_image(precomputed, dataset), [p._replace(boxes=p.boxes[:2]) for p in found])


def test_boxes_are_clipped_and_must_be_finite(dataset, tmp_path):
    found = random_proposals(dataset)
    found[0].boxes[0] = (-3, -2, 900, 7)
    found[2].boxes[1, 3] = np.nan
    write_proposals(tmp_path / "x.safetensors", found, "rpn")
    precomputed = proposals_for_dataset(tmp_path / "x.safetensors", dataset, 10)
    assert precomputed.boxes_of(0, *SIZES[0])[0].tolist() == [0, 0, SIZES[0][0], 7]
    with pytest.raises(UserError, match=r"images/p2\.png are NaN or infinite"):
        precomputed.boxes_of(2, *SIZES[2])


def test_images_without_any_proposal(dataset, tmp_path):
    write_proposals(tmp_path / "x.safetensors", random_proposals(dataset, (0, 0, 0, 0)), "rpn")
    precomputed = proposals_for_dataset(tmp_path / "x.safetensors", dataset, 10)
    batch = next(iter(loader(dataset, precomputed)))
    assert batch.proposals.shape == (batch.images.shape[0], 1, 4)
    assert not batch.proposals.any()


def loader(dataset, precomputed, size="original", flip=0.5, **options):
    options |= {"augmentation": Augmentation(hflip_prob=flip), "proposals": precomputed}
    return make_loader(dataset, size=size, batch_size=2, training=True, size_divisible=8, **options)


@settings(max_examples=20)
@given(st.integers(20, 120), st.integers(20, 200), st.integers(0, 9), st.sampled_from([0.0, 0.5, 1.0]))
def test_proposals_are_resized_and_flipped_like_ground_truth(set_and_truth, short, long, seed, flip):
    """Ground truths written as proposals equal the ground truths after resizing and flipping."""
    dataset, path = set_and_truth
    precomputed = proposals_for_dataset(path, dataset, 7)
    for batch in loader(dataset, precomputed, (short, long), seed=seed, flip=flip):
        assert batch.proposals.shape[1] == precomputed.num_proposals == 2
        for boxes, labels, proposals in zip(batch.boxes, batch.labels, batch.proposals, strict=True):
            held = int((labels >= 0).sum())
            assert torch.equal(proposals[:held], boxes[:held])
            assert not proposals[held:].any()


@settings(max_examples=20)
@given(st.floats(0.3, 2.5), st.integers(0, 9))
def test_proposals_are_cropped_like_ground_truth(set_and_truth, factor, seed):
    """Every ground truth that remains after a random crop has its proposal, and proposals stay inside the image."""
    dataset, path = set_and_truth
    precomputed = proposals_for_dataset(path, dataset, 7)
    augmentation = Augmentation(scale_jitter=(factor, factor))
    options = {"size": (60, 80), "batch_size": 2, "training": True, "size_divisible": 8, "seed": seed}
    for batch in make_loader(dataset, augmentation=augmentation, proposals=precomputed, **options):
        for boxes, labels, proposals, size in zip(batch.boxes, batch.labels, batch.proposals, batch.sizes, strict=True):
            assert all((box == proposals).all(1).any() for box in boxes[labels >= 0])
            assert (proposals <= size.flip(0).repeat(2)).all()


@pytest.fixture(scope="module")
def set_and_truth(tmp_path_factory):
    root = tmp_path_factory.mktemp("truth")
    dataset, _ = read(write(root / "set"))
    entries = [
        ImageProposals(p.id, p.path.name, p.width, p.height, p.boxes, np.ones(len(p.boxes), np.float32))
        for p in dataset.images
    ]
    write_proposals(root / "x.safetensors", entries, "rpn")
    return dataset, root / "x.safetensors"


def test_proposals_are_independent_of_workers(set_and_truth):
    dataset, path = set_and_truth
    precomputed = proposals_for_dataset(path, dataset, 7)
    alone, helped = (list(loader(dataset, precomputed, (60, 90), num_workers=workers)) for workers in (0, 2))
    assert all(torch.equal(a.proposals, b.proposals) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_proposals_match_pixels(dataset, tmp_path, flip):
    """White rectangles on black images fill their proposals."""
    found = []
    for p in dataset.images:
        pixels = np.zeros((p.height, p.width, 3), np.uint8)
        pixels[10:30, 4:24] = 255
        Image.fromarray(pixels).save(p.path)
        box = np.array([[4, 10, 24, 30]], np.float32)
        found.append(ImageProposals(p.id, p.path.name, p.width, p.height, box, np.ones(1, np.float32)))
    write_proposals(tmp_path / "x.safetensors", found, "rpn")
    precomputed = proposals_for_dataset(tmp_path / "x.safetensors", dataset, 10)
    for batch in loader(dataset, precomputed, (90, 120), flip=flip):
        for image, (box,) in zip(batch.images, batch.proposals, strict=True):
            ys, xs = torch.nonzero(image[0] > 127, as_tuple=True)
            extent = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            assert (extent - box).abs().max() < 1.01


def test_find_proposal_file_of_a_split(dataset, tmp_path):
    folder = tmp_path / "props"
    folder.mkdir()
    for name in ("train2017.safetensors", "rpn_r50_val2017.pkl", "notes.txt"):
        (folder / name).touch()
    assert (
        resolve_proposal_file(folder, "train2017").name
        == resolve_proposal_file(folder, "train").name
        == "train2017.safetensors"
    )
    assert resolve_proposal_file(folder, "val").name == "rpn_r50_val2017.pkl"
    assert resolve_proposal_file(folder / "notes.txt", "val").name == "notes.txt"
    with pytest.raises(UserError, match=r"named after test.*rpn_r50_val2017\.pkl, train2017\.safetensors"):
        resolve_proposal_file(folder, "test")
    (folder / "other-val2017.pkl").touch()
    with pytest.raises(UserError, match="several files"):
        resolve_proposal_file(folder, "val2017")


def test_images_with_equal_names_are_matched_by_folder(tmp_path):
    paths = [tmp_path / part / "a.png" for part in ("one", "two")]
    found = [
        ImageProposals(i, f"x/{p.parent.name}/a.png", 8, 8, np.full((1, 4), i + 1.0), np.ones(1))
        for i, p in enumerate(paths)
    ]
    write_proposals(tmp_path / "x.safetensors", found, "rpn")
    precomputed = proposals_for_images(tmp_path / "x.safetensors", paths[::-1], 9)
    assert precomputed.rows.tolist() == [1, 0]
    with pytest.raises(UserError, match="1 of 2 input images"):
        proposals_for_images(tmp_path / "x.safetensors", [paths[0], tmp_path / "three" / "a.png"], 9)


@pytest.mark.parametrize("names", [["a/p0.png", "b/p0.png"], ["p0.png", "a/p0.png"]])
def test_folders_decide_between_equal_names_before_ids(tmp_path, names):
    content = records()
    content["images"] = [{**content["images"][0], "id": i, "file_name": name} for i, name in enumerate(names, start=1)]
    content["annotations"] = []
    root = write(tmp_path / "data", content)
    for name in names:
        (root / "images" / name).parent.mkdir(exist_ok=True)
        sample_image(64, 48).save(root / "images" / name)
    dataset, _ = read(root, training=False)
    # Predicted in another order, and from another folder: ids are those of the order.
    found = [
        ImageProposals(i, name, 64, 48, np.array([[0, 0, i, i]], np.float32), np.ones(1))
        for i, name in enumerate(reversed(names), start=1)
    ]
    write_proposals(tmp_path / "x.safetensors", found, "rpn")
    precomputed = proposals_for_dataset(tmp_path / "x.safetensors", dataset, 9)
    assert [precomputed.boxes_of(i, 64, 48)[0, 2].item() for i in range(2)] == [2, 1]


def test_ids_decide_between_equal_files(tmp_path):
    content = records()
    content["images"] = [{**content["images"][0], "id": i} for i in (7, 3)]
    content["annotations"] = []
    dataset, _ = read(write(tmp_path / "data", content), training=False)
    found = [ImageProposals(i, "images/p0.png", 64, 48, np.full((1, 4), i), np.ones(1)) for i in (3, 7)]
    write_proposals(tmp_path / "x.safetensors", found, "rpn")
    assert proposals_for_dataset(tmp_path / "x.safetensors", dataset, 9).rows.tolist() == [1, 0]


def test_files_that_cannot_be_read_need_no_proposals(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"]
    sample_image(8, 8).save(paths[0])
    sample_image(8, 8).save(paths[2])
    paths[1].write_bytes(b"damaged")
    found = [ImageProposals(i, path.name, 8, 8, np.ones((1, 4)), np.ones(1)) for i, path in enumerate(paths)]
    write_proposals(tmp_path / "x.safetensors", [found[0], found[2]], "rpn")
    assert proposals_for_images(tmp_path / "x.safetensors", paths, 9).rows.tolist() == [0, NO_ROW, 1]
    write_proposals(tmp_path / "x.safetensors", [found[0]], "rpn")
    with pytest.raises(UserError, match=r"1 of 3 input images have no proposals in it \(c\.png\)"):
        proposals_for_images(tmp_path / "x.safetensors", paths, 9)


def test_files_of_other_images_are_refused(dataset, tmp_path):
    path, found = tmp_path / "x.safetensors", random_proposals(dataset)
    write_proposals(path, found[:2], "rpn")
    assert_refused(path, dataset, r"2 of 4 images of all of .* have no proposals in it \(p2\.png, p3\.png\)")
    write_proposals(path, [p._replace(name=f"q{p.id}.png") for p in found], "rpn")
    assert_refused(path, dataset, r"another dataset or split.*q10\.png.*p0\.png")
    write_proposals(path, [found[0]._replace(width=99), *found[1:]], "rpn")
    assert_refused(
        path, dataset, r"p0\.png was 99x48 when the proposals were computed and is 64x48 \(as 1 of 4 images\)"
    )
    # Ids of another origin do not matter where names and sizes are right.
    write_proposals(path, [p._replace(id=p.id - 9) for p in found], "rpn")
    assert same_boxes(boxes_by_image(proposals_for_dataset(path, dataset, 10), dataset), found)
