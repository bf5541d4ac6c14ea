"""Input files, folders and patterns."""

import pytest

from libradet.errors import UserError
from libradet.inference.inputs import iter_inputs, list_image_files


def names(paths):
    return [p.name for p in paths]


def test_list_image_files(folder):
    assert names(list_image_files([folder])) == ["a.PNG", "b.jpg", "c.jpg"]
    assert names(list_image_files([folder / "*.jpg"])) == ["b.jpg", "c.jpg"]
    assert names(list_image_files([f"{folder}/**/*"])) == ["a.PNG", "b.jpg", "c.jpg", "a.png"]
    assert names(list_image_files([folder / "c.jpg", folder, folder / "b.jpg"])) == ["c.jpg", "a.PNG", "b.jpg"]
    # A file that is named directly is listed with any suffix.
    assert names(list_image_files([folder / "notes.txt"])) == ["notes.txt"]


@pytest.mark.parametrize("name", ["._b.jpg", "._b.mp4"])
def test_resource_forks_of_folders_are_left_out(folder, name):
    (folder / name).write_bytes(b"fork")
    assert names(list_image_files([folder])) == ["a.PNG", "b.jpg", "c.jpg"]


def test_videos_among_images_are_named(folder):
    (folder / "d.mp4").touch()
    with pytest.raises(UserError, match=r"d\.mp4: is a video among images; leave it out"):
        list(iter_inputs(list_image_files([folder / "a.PNG", folder / "d.mp4"])))


def test_existing_file_precedes_pattern(folder):
    odd = folder / "x[1].jpg"
    (folder / "b.jpg").rename(odd)
    assert list_image_files([odd]) == [odd]


@pytest.mark.parametrize("source", ["absent.jpg", "*.webp", "empty"])
def test_error_names_source_without_images(folder, source):
    (folder / "empty").mkdir()
    with pytest.raises(UserError) as error:
        list_image_files([folder, folder / source])
    assert str(folder / source) in str(error.value)


def test_no_sources():
    with pytest.raises(UserError, match="no images were named"):
        list_image_files([])
