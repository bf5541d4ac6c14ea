"""Scripts of findings have their form; they are run by hand, because they install packages."""

import os
import re
from pathlib import Path

import pytest

FINDINGS = Path(__file__).parents[2] / "findings"
SCRIPTS = sorted(FINDINGS.glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_states_what_was_observed_and_is_executable(script):
    text = script.read_text()
    assert os.access(script, os.X_OK)
    for line in ("#!/usr/bin/env bash\n# Versions: ", "\n# Behavior: ", "\n# Output seen, 20", "\nset -euo pipefail\n"):
        assert line in text
    assert re.search(r"\nfolder=\$\(mktemp -d\); trap 'rm -rf \"\$folder\"' EXIT\n", text)
    assert re.search(r"[a-z]==\d", text)


def test_folder_has_scripts_only():
    assert [path.name for path in FINDINGS.iterdir() if path.suffix != ".sh"] == []
