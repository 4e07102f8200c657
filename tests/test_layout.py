"""Imports point one way, from room to room; and what workers and command lines import does not bring jax."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "denoised_mdp"
# By room, how high it stands: it may import what stands lower, and its own files.
FLOORS = {
    "errors": 0,
    "cache": 0,
    "variables": 0,
    "model": 1,
    "envs": 1,
    "config": 1,
    "agent": 2,
    "runs": 3,
    "analysis": 4,
}
FLOORS |= {"reference": 4, "cli": 4, "training": 5, "commands": 6, "__main__": 7}


def imported(path: Path) -> Iterator[str]:
    """The rooms that a file imports from, inside its functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they point"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (module.split(".")[1] for module in modules if module.startswith(f"{PACKAGE}."))


def test_imports_point_down():
    files = [path for path in (ROOT / PACKAGE).rglob("*.py") if path != ROOT / PACKAGE / "__init__.py"]
    rooms = {path: path.relative_to(ROOT / PACKAGE).with_suffix("").parts[0] for path in files}
    assert set(rooms.values()) == set(FLOORS)
    upward = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path, room in rooms.items()
        for other in imported(path)
        if other != room and FLOORS[other] >= FLOORS[room]
    ]
    assert not upward


@pytest.mark.parametrize("module", ["errors", "envs", "config", "config.compose", "runs.replay", "runs.run_dir"])
def test_no_jax_comes_along(module):
    code = f"import sys, {PACKAGE}.{module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
