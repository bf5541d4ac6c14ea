import pytest

from libradet.errors import UserError
from libradet.utils.atomic_io import require_writable


def test_folders_of_output_files_are_created(tmp_path):
    require_writable(tmp_path / "new" / "results.json")
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]


def test_paths_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a folder; name a file"):
        require_writable(tmp_path)
    with pytest.raises(UserError, match="file: the folder cannot be created"):
        require_writable(tmp_path / "file" / "results.json")
