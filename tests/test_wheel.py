"""A wheel holds all that the commands need, and so does a wheel made from the source archive."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = "import setuptools.build_meta as backend, sys; getattr(backend, sys.argv[1])(sys.argv[2])"


def built(source: Path, kind: str, folder: Path) -> Path:
    command = [sys.executable, "-W", "ignore", "-c", BUILD, f"build_{kind}", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> list[Path]:
    """The wheel of a copy of this checkout, and the wheel of its source archive."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"
    for name in ("denoised_mdp", "configs", "studies"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    archive = built(checkout, "sdist", folder / "sdist")
    subprocess.run(["tar", "-xf", archive, "--strip-components=1"], cwd=unpacked, check=True)  # alike on every Python
    return [built(source, "wheel", folder / f"of_{source.name}") for source in (checkout, unpacked)]


def test_a_wheel_holds_the_configurations_and_the_commands(wheels):
    ours = {str(path.relative_to(ROOT)) for top in ("configs", "studies") for path in (ROOT / top).rglob("*.yaml")}
    ours |= {str(path.relative_to(ROOT / "denoised_mdp")) for path in (ROOT / "denoised_mdp").rglob("*.py")}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            assert {f"denoised_mdp/{name}" for name in ours} <= set(archive.namelist())
            (entry,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
            assert "denoised-mdp = denoised_mdp.__main__:main" in archive.read(entry).decode()


def test_it_composes_in_an_empty_folder_what_the_checkout_does(wheels, tmp_path):
    command = [sys.executable, "-m", "denoised_mdp", "train", "experiment=sunlight", "--cfg", "job", "--resolve"]
    told = []
    for i, place in enumerate([str(ROOT), *map(str, wheels)]):
        if i:
            zipfile.ZipFile(place).extractall(tmp_path / f"site{i}")
            place = str(tmp_path / f"site{i}")
        (tmp_path / f"empty{i}").mkdir()
        environment = os.environ | {"PYTHONPATH": place}
        told.append(subprocess.check_output(command, cwd=tmp_path / f"empty{i}", env=environment, text=True))
    assert told[0].startswith("precision: float32") and told[1:] == told[:1] * 2
