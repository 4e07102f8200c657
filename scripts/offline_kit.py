"""Packs packages for a machine without a network: bash scripts/offline_kit.sh --have jax,flax --out kit.tar.xz"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

from pip._vendor.packaging.markers import default_environment
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
GLIBC = (17, 24, 26, 27, 28, 31, 34, 35, 39)  # minor versions of glibc 2 in the tags of wheels
ON_REQUEST = ("wandb",)  # imported only if a run logs to it
PRUNED = (  # large, and never imported
    "dm_control/locomotion",
    "dm_control/blender",
    "imageio_ffmpeg/binaries/ffmpeg*",  # without ffmpeg videos are GIFs
    "mujoco/experimental",
    "mujoco/mjx",
    "mujoco/_render_filament*",
    "labmaze",  # only for dm_control/locomotion
)
OURS = ("denoised_mdp", "scripts", "requirements.txt", "pyproject.toml", "README.md", "LICENSE")


class CannotPack(Exception):
    """A missing package, in one line."""


def main() -> None:
    """Writes the archive and prints the lines that unpack and use it."""
    parser = argparse.ArgumentParser(
        description="Packs this package and its requirements for a machine without network."
    )
    parser.add_argument("--python", default="3.12", help="the machine's version of Python (default 3.12)")
    parser.add_argument("--platform", default="x86_64", choices=["x86_64", "aarch64"], help="its processor, with Linux")
    parser.add_argument("--have", default="", help="packages to leave out, because it has them: jax,flax,optax,numpy")
    parser.add_argument("--with", dest="extra", default="", help=f"optional packages to add: {', '.join(ON_REQUEST)}")
    parser.add_argument("--out", type=Path, default=Path("kit.tar.xz"), help="the archive (default kit.tar.xz)")
    options = parser.parse_args()
    if not options.out.parent.is_dir():
        parser.exit(2, f"error: --out {options.out}: there is no folder {options.out.parent}\n")
    try:
        names = pack(options)
    except CannotPack as error:
        parser.exit(2, f"error: {error}\n")
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {size:.1f} MB, with {', '.join(names)}")
    print("on that machine, in any folder:")
    print(f"  tar -xJf {options.out.name}")
    print('  export PYTHONPATH="$PWD/denoised-mdp:$PWD/denoised-mdp/site"')
    print("  python3 denoised-mdp/scripts/train.py size=debug")


def pack(options: argparse.Namespace) -> list[str]:
    """Fetches, prunes and packs; returns the names of the packages inside.

    Raises:
        CannotPack: a package has no wheel for that machine.
    """
    with tempfile.TemporaryDirectory(prefix="denoised-mdp-kit-") as folder:
        kit = Path(folder, "denoised-mdp")
        site, wheels = kit / "site", Path(folder, "wheels")
        site.mkdir(parents=True)
        names = []
        for name, wheel in needed(options, wheels):
            names.append(name)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
        for pattern in PRUNED:
            for path in site.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in OURS:
            source = ROOT / name
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, kit / name, ignore=ignore) if source.is_dir() else shutil.copy(source, kit / name)
        with tarfile.open(options.out, "w:xz", preset=9) as archive:
            archive.add(kit, arcname=kit.name)
        return sorted(names)


def needed(options: argparse.Namespace, wheels: Path) -> Iterator[tuple[str, Path]]:
    """Yields names and wheels of the requirements, direct and indirect, except those that the machine has."""
    marker = {**default_environment(), "python_version": options.python, "python_full_version": f"{options.python}.0"}
    marker |= {"platform_machine": options.platform, "sys_platform": "linux", "extra": ""}
    have = {canonicalize_name(name) for name in options.have.split(",") if name}
    have |= {canonicalize_name(name) for name in ON_REQUEST if name not in options.extra.split(",")}
    have |= {canonicalize_name(Path(pattern).name) for pattern in PRUNED if "/" not in pattern}
    waiting = [Requirement(line) for line in _requirement_lines(ROOT / "requirements.txt")]
    lock, locked = "requirements.lock" if options.python == "3.11" else "requirements-3.12.lock", {}
    for line in _requirement_lines(ROOT / lock):
        requirement = Requirement(line)
        locked[canonicalize_name(requirement.name)] = requirement.specifier
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in have or (requirement.marker and not requirement.marker.evaluate(marker)):
            continue
        have.add(name)
        wheel = fetch(f"{name}{locked.get(name, requirement.specifier)}", options, wheels / name)
        waiting += _requirements_of(wheel)
        yield name, wheel


def fetch(requirement: str, options: argparse.Namespace, folder: Path) -> Path:
    """Fetches the wheel of a package for the other machine, and returns its path.

    Raises:
        CannotPack: there is none, and none can be built.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    platforms = [f"manylinux_2_{minor}_{options.platform}" for minor in GLIBC]
    platforms += [f"manylinux2014_{options.platform}", f"linux_{options.platform}"]
    target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", options.python]
    target += [part for platform in platforms for part in ("--platform", platform)]
    common = ["--no-deps", requirement]
    process = subprocess.run([*pip, "download", "-d", str(folder), *target, *common], capture_output=True, text=True)
    if process.returncode:  # pure Python, published as sources only
        process = subprocess.run([*pip, "wheel", "-w", str(folder), *common], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl")) if folder.is_dir() else []
    if len(wheels) != 1 or (process.returncode and not wheels):
        raise CannotPack(f"{requirement}: no wheel for Python {options.python} on {options.platform}")
    return wheels[0]


def _requirements_of(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1]
        headers = HeaderParser().parsestr(archive.read(name).decode())
    return [Requirement(text) for text in headers.get_all("Requires-Dist") or []]


def _requirement_lines(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        if text := line.partition("#")[0].strip():
            yield text


if __name__ == "__main__":
    main()
