"""A deferred module is imported when one of its functions is called, not when a library imports it."""

import sys

import pytest

from libradet.utils.deferred_import import deferred_import


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A package with an expensive module, and a library that imports it in both ways."""
    package = tmp_path / "deferred_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "expensive.py").write_text("def double(x):\n    return 2 * x\n")
    imports = "import deferred_package.expensive\nfrom deferred_package.expensive import double\n"
    (tmp_path / "deferred_library.py").write_text(f"{imports}def run(x):\n    return double(x)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("deferred_package", "deferred_package.expensive", "deferred_library"):
        sys.modules.pop(name, None)


def test_a_deferred_module_is_imported_at_the_first_call(library):
    with deferred_import("deferred_package.expensive"):
        import deferred_library
    assert "deferred_package.expensive" not in sys.modules
    assert deferred_library.run(x=3) == 6
    assert sys.modules["deferred_package.expensive"].double(4) == 8


def test_an_imported_module_is_left_as_it_is(library):
    import deferred_package.expensive as expensive

    with deferred_import("deferred_package.expensive"):
        import deferred_library
    assert sys.modules["deferred_package.expensive"] is expensive
    assert deferred_library.double is expensive.double


def test_a_module_that_is_not_installed_cannot_be_imported():
    with deferred_import("not_an_installed_module"), pytest.raises(ImportError):
        __import__("not_an_installed_module")
