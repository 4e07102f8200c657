"""The notebooks run from top to bottom as they come, and end with their pictures."""

from __future__ import annotations

import base64
import copy
import io
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from nbclient import NotebookClient
from PIL import Image

from denoised_mdp.analysis import notebook

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = REPOSITORY / "notebooks"


def pictures(document: Any) -> list[list[Image.Image]]:
    """Of each code cell."""
    return [
        [
            Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
            for output in cell.outputs
            if "image/png" in output.get("data", {})
        ]
        for cell in document.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize(
    ("name", "started_in"),
    [
        ("analyze_your_run", REPOSITORY),
        ("decoder_visualization", NOTEBOOKS),
        ("factorization_report", NOTEBOOKS),
    ],
)
def test_a_notebook_runs_and_shows_all_its_pictures(name, started_in):
    committed = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    fresh = copy.deepcopy(committed)
    NotebookClient(fresh, timeout=240, resources={"metadata": {"path": started_in}}).execute()
    shown = pictures(fresh)
    assert sum(map(len, shown)) >= 3
    assert [[picture.size for picture in cell] for cell in shown] == [
        [picture.size for picture in cell] for cell in pictures(committed)
    ]
    assert all(np.asarray(picture.convert("L")).std() > 1 for cell in shown for picture in cell)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_committed_notebook_tells_nothing_of_the_machine(path):
    assert not re.findall(r"/(?:home|root|tmp|work|Users)/\S*", path.read_text())


@pytest.fixture
def displayed(monkeypatch) -> list[Any]:
    from IPython import display

    shown: list[Any] = []
    monkeypatch.setattr(display, "display", shown.append)
    return shown


def gradient(brightness=200) -> Image.Image:
    ramp = np.linspace(0, brightness, 64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)
    return Image.fromarray(ramp)


def brightest(shown: Any) -> int:
    return int(np.asarray(Image.open(io.BytesIO(shown.data)).convert("RGB")).max())


def test_without_ipywidgets_there_is_a_plain_picture(displayed, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    notebook.explore(gradient, brightness=(0, 255))
    (picture,) = displayed
    assert brightest(picture) == pytest.approx(200, abs=3)


def test_with_ipywidgets_there_is_a_slider_that_begins_at_the_default_and_draws_anew(displayed):
    pytest.importorskip("ipywidgets")
    notebook.explore(gradient, brightness=(0, 255))
    (widget,) = displayed
    (slider,) = widget.kwargs_widgets
    assert (slider.value, slider.min, slider.max) == (200, 0, 255) and not slider.continuous_update
    slider.value = 100
    assert brightest(widget.result) == pytest.approx(100, abs=3)


def test_a_figure_is_shown_as_small_as_a_strip():
    figure = Figure(figsize=(4, 2))
    figure.subplots().plot([0, 1])
    shown: Any = notebook.show(figure)
    picture = Image.open(io.BytesIO(shown.data))
    assert picture.size == (340, 170) and picture.mode == "P"
