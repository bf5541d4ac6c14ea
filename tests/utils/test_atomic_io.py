import json

import pytest

from libradet.errors import UserError
from libradet.utils.atomic_io import atomic_folder, atomic_json_list, atomic_write, require_writable


def test_looking_whether_a_file_can_be_written_creates_nothing(tmp_path):
    require_writable(tmp_path / "new" / "folder" / "results.json")
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(UserError, match="is a folder; name a file"):
        require_writable(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(UserError, match=rf"{name}: the folder cannot be created \(.*{name} is a file\)"):
            require_writable(tmp_path / name / "results.json")
    for name in ("file", "file/new", "link"):
        with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / name / "results.json"):
            pytest.fail("a file is no folder")


@pytest.mark.parametrize("writer", [atomic_write, atomic_folder])
@pytest.mark.parametrize("error", [UserError("refused"), KeyboardInterrupt()])
def test_an_error_leaves_no_new_folders(writer, error, tmp_path):
    def write(extra):
        with writer(tmp_path / "old" / "new" / "folder" / "name"):
            for name in extra:
                (tmp_path / "old" / "new" / name).touch()
            raise error

    (tmp_path / "old").mkdir()
    with pytest.raises(type(error)):
        write([])
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]
    with pytest.raises(type(error)):
        write(["other"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "old", "other"]


def test_what_was_written_before_an_interrupt_stays(tmp_path):
    def write():
        with atomic_json_list(tmp_path / "new" / "list.json") as add:
            add(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert json.loads((tmp_path / "new" / "list.json").read_text()) == [1]
