"""A deferred module is imported when one of its functions is called, not when a library imports it."""

import os
import subprocess
import sys
from pathlib import Path

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


COMPILER = """
import sys
from libradet.utils.deferred_import import deferred_compiler
import torch

disable = torch.compiler.disable
with deferred_compiler():
    from torch._dynamo.utils import is_compile_supported

    @torch.compiler.disable
    def double(x):
        return 2 * x

    @torch.compiler.disable(recursive=False)
    def triple(x):
        return 3 * x

assert torch.compiler.disable is disable
assert (double(2), triple(2)) == (4, 6)
assert "torch._dynamo" not in sys.modules and "torch._dynamo.utils" not in sys.modules
assert isinstance(is_compile_supported("cpu"), bool)
assert "torch._dynamo" in sys.modules

def run(x):
    return double(x) + triple(x)

graphs = []
def backend(graph, inputs):
    graphs.append(graph.code)
    return graph.forward
assert torch.equal(torch.compile(run, backend=backend)(torch.ones(2)), torch.full((2,), 5.0))
assert not any("* 2" in code or "2 *" in code for code in graphs), graphs
"""

COMPILER_NEEDED = """
import sys
from libradet.utils.deferred_import import deferred_compiler
with deferred_compiler():
    if sys.argv[1] == "attribute":
        from torch._dynamo.utils import counters, is_compile_supported
    else:
        import torch._dynamo
import torch._dynamo.utils
assert type(torch._dynamo.utils.counters).__name__ in ("defaultdict", "Counter"), torch._dynamo.utils.counters
assert "libradet" not in type(torch._dynamo.utils).__module__
"""


@pytest.mark.parametrize("program", [(COMPILER,), (COMPILER_NEEDED, "attribute"), (COMPILER_NEEDED, "package")])
def test_the_compiler_is_imported_when_it_is_needed(program):
    """In processes of their own, as the suite has imported it."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", *program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr.partition("nanobind")[0]
