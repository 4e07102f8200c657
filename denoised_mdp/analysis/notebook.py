"""What only notebooks need: showing pictures, with sliders where ipywidgets is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from io import BytesIO
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from IPython.display import Image as Shown
    from matplotlib.figure import Figure

COLOURS = 128  # so few make a picture a quarter of its size, which a notebook keeps in its file, and are hardly seen


def show(picture: Image.Image | Figure) -> Shown:
    """A strip of pictures, or a figure of matplotlib's, as a small PNG."""
    from IPython.display import Image as Shown

    if not isinstance(picture, Image.Image):
        drawn = BytesIO()
        picture.savefig(drawn, dpi=85)
        picture = Image.open(drawn).convert("RGB")
    png = BytesIO()
    picture.quantize(COLOURS, kmeans=3).save(png, "PNG", optimize=True)
    return Shown(png.getvalue())


def explore(draw: Callable[..., Image.Image | Figure], **controls: Any) -> None:
    """Shows what `draw` returns, under a slider or menu for each of the named arguments.

    Without ipywidgets (the extra `notebooks`) it is what `draw` returns by its own defaults, as a plain picture.

    controls: what an argument may be, as of ipywidgets.interact: (first, last), (first, last, step) or a list.
    """
    from IPython.display import display

    try:
        from ipywidgets import interactive  # pyright: ignore[reportMissingImports]
    except ImportError:
        display(show(draw()))
        return

    @wraps(draw)  # with its defaults, where the sliders begin
    def shown(**chosen: Any) -> Shown:
        return show(draw(**chosen))

    widget = interactive(shown, **controls)
    for control in widget.kwargs_widgets:
        control.continuous_update = False  # a picture takes longer than a slider's next step
    display(widget)
