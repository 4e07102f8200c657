"""Executes the notebooks and saves them with their output: python scripts/notebooks.py [notebooks/one.ipynb ...]"""

from __future__ import annotations

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def main() -> None:
    """Writes each notebook anew. If its code raises, the notebook does not change, and the traceback is shown."""
    parser = argparse.ArgumentParser(description="Executes notebooks in place, from top to bottom.")
    parser.add_argument("notebooks", type=Path, nargs="*", default=sorted(FOLDER.glob("*.ipynb")))
    for path in parser.parse_args().notebooks:
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, resources={"metadata": {"path": path.parent}}, record_timing=False)
        client.execute()
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main()
