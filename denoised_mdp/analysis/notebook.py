"""Functions for notebooks: they show pictures, with sliders if ipywidgets is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from IPython.display import Image as Shown
    from matplotlib.figure import Figure

COLOURS = 128  # few colours make a picture in a notebook's file four times smaller, and the eye hardly sees it


def show(picture: Image.Image | Figure) -> Shown:
    """Returns a strip of pictures, or a figure of matplotlib, as a small PNG."""
    from IPython.display import Image as Shown

    if not isinstance(picture, Image.Image):
        drawn = BytesIO()
        picture.savefig(drawn, dpi=85)
        picture = Image.open(drawn).convert("RGB")
    png = BytesIO()
    picture.quantize(COLOURS, kmeans=3).save(png, "PNG", optimize=True)
    return Shown(png.getvalue())


def explore(draw: Callable[..., Image.Image | Figure], **controls: Any) -> None:
    """Shows the result of `draw` under a slider or menu for each of the named arguments.

    Without ipywidgets (the extra `notebooks`) it shows the result for the defaults of `draw` as a plain picture.

    controls: the values of an argument, as in ipywidgets.interact: (first, last), (first, last, step) or a list.
    """
    from IPython.display import display

    try:
        from ipywidgets import interactive  # pyright: ignore[reportMissingImports]
    except ImportError:
        display(show(draw()))
        return

    @wraps(draw)  # keeps the defaults, where the sliders begin
    def shown(**chosen: Any) -> Shown:
        return show(draw(**chosen))

    widget = interactive(shown, **controls)
    for control in widget.kwargs_widgets:
        control.continuous_update = False  # a picture takes longer than a slider's next step
    display(widget)
