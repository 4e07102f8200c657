"""A house with a curtain in its window, a bird on a post, a plane in the sky, and the weather. No factor hides another.

Positions are interpolated between pixels, so that even the smallest change of a factor changes the picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZE = 64

_CLEAR, _OVERCAST = (70, 150, 240), (95, 100, 110)  # of the sky
_SUN, _SUN_CENTRE, _SUN_RADIUS = (255, 225, 90), (14, 7), 5.3  # (row, column), pixels
_GRASS, _GRASS_TOP = (70, 110, 60), 54
_WALL, _ROOF, _FRAME = (190, 165, 135), (115, 70, 60), (235, 230, 220)
_WALL_BOX, _ROOF_TOP = (slice(25, 58), slice(8, 46)), 14
_WINDOW = (slice(30, 52), slice(12, 42))
_ROOM, _CLOTH = (60, 45, 40), ((215, 45, 60), (180, 30, 45))
_CURTAIN_LEAST, _CURTAIN_MOST = 1.0, 15.0  # columns that each half of the curtain covers, open and closed
_POST, _POST_BOX = (120, 90, 60), (slice(50, 59), slice(55, 58))
_BIRD_COLUMN, _BIRD_ROWS = 51, (43.0, 13.0)  # of its upper left corner: on the post, and at its greatest height
_PLANE_ROW, _PLANE_COLUMNS = 2, (1.0, 48.0)
_SHIFTS = 8  # sub-pixel positions

_BIRD = (
    "....oo...",
    "..o.ooo..",
    ".oo.ooooy",
    "ooooooo..",
    ".oooooo..",
    "..ooooo..",
    "....k.k..",
)
_PLANE = (
    "w..............",
    "ww.............",
    "www............",
    "wwwwwwwwwwwbww.",
    ".wwwwwwwwwwwwww",
    ".....rrrr......",
    "....rrr........",
)
_COLOURS = {
    "o": (245, 130, 25),
    "y": (255, 220, 60),
    "k": (40, 30, 20),
    "w": (250, 250, 250),
    "b": (40, 60, 120),
    "r": (210, 50, 50),
}


class Sprite:
    """A small picture at sub-pixel positions along one axis."""

    def __init__(self, drawing: tuple[str, ...], strength: float, axis: int):
        """Args: `strength`: opacity, from 0 to 1, where 1 hides the background; `axis`: 0 vertical, 1 horizontal."""
        self._axis = axis
        colour = np.array([[_COLOURS.get(letter, (0, 0, 0)) for letter in row] for row in drawing], np.float32)
        cover = np.array([[letter != "." for letter in row] for row in drawing], np.float32)[..., None] * strength
        self._light, self._behind = [], []  # per shift: the light to add, and the share of the background that stays
        for shift in np.arange(_SHIFTS) / _SHIFTS:
            covered, light = (_between(field, shift, axis) for field in (cover, cover * colour))
            self._light.append(light)
            self._behind.append(1 - covered)

    def draw(self, canvas: NDArray[np.float32], place: float, across: int) -> None:
        """Draws it with its first row or column at `place` along its axis, and at `across` along the other."""
        shift = round(place * _SHIFTS)
        whole, shift = divmod(shift, _SHIFTS)
        light = self._light[shift]
        row, column = (whole, across) if self._axis == 0 else (across, whole)
        here = canvas[row : row + light.shape[0], column : column + light.shape[1]]
        here *= self._behind[shift]
        here += light


class Painter:
    """Draws the state of the world, each factor with the given contrast: 1 is full contrast, 0 is invisible."""

    def __init__(self, *, curtain: float, bird: float, weather: float, plane: float):
        clear, overcast = _scene(_CLEAR, sun=True), _scene(_OVERCAST, sun=False)
        middle = (clear + overcast) / 2
        self._overcast = middle + weather * (overcast - middle)
        self._clearing = weather * (clear - overcast)
        room, cloth = _window()
        self._room, self._cloth = room, curtain * (cloth - room)
        columns = np.arange(room.shape[1], dtype=np.float32)
        self._depth = np.minimum(columns, columns[::-1])[:, None]  # distance of each column from the nearer side
        self._bird = Sprite(_BIRD, bird, axis=0)
        self._planes = {heading: Sprite(drawing, plane, axis=1) for heading, drawing in _HEADINGS.items()}

    def paint(self, *, curtain: float, bird: float, weather: float, plane: float, heading: int) -> NDArray[np.float32]:
        """Returns the picture [SIZE, SIZE, 3], levels 0 to 255; factors in [0, 1], `heading` 1 right or -1 left."""
        canvas = self._clearing * np.float32(weather)
        canvas += self._overcast
        canvas[_WINDOW] = self._room + self._cover(curtain) * self._cloth
        perched, away = _BIRD_ROWS
        self._bird.draw(canvas, perched + bird * (away - perched), _BIRD_COLUMN)
        left, right = _PLANE_COLUMNS
        self._planes[heading].draw(canvas, left + plane * (right - left), _PLANE_ROW)
        return canvas

    def curtain_mask(self, curtain: float) -> NDArray[np.bool_]:
        """Returns a mask [SIZE, SIZE] of the pixels of which the curtain covers at least half."""
        mask = np.zeros((SIZE, SIZE), np.bool_)
        mask[_WINDOW] = self._cover(curtain)[..., 0] >= 0.5
        return mask

    def _cover(self, curtain: float) -> NDArray[np.float32]:
        """Returns [columns of the window, 1]: the share of each column that the curtain covers."""
        width = _CURTAIN_MOST + curtain * (_CURTAIN_LEAST - _CURTAIN_MOST)
        return np.minimum(np.maximum(width - self._depth, 0), 1).astype(np.float32)


def _between(field: NDArray[np.float32], shift: float, axis: int) -> NDArray[np.float32]:
    """Returns a field moved down or right by less than a pixel, and larger by one pixel."""
    room = [(0, 0), (0, 0), (0, 0)]
    room[axis] = (0, 1)
    here = np.pad(field, room)
    return ((1 - shift) * here + shift * np.roll(here, 1, axis)).astype(np.float32)


def _scene(sky: tuple[int, int, int], *, sun: bool) -> NDArray[np.float32]:
    """Returns the static scene under one sky."""
    scene = np.empty((SIZE, SIZE, 3), np.float32)
    scene[:] = sky
    rows, columns = np.mgrid[:SIZE, :SIZE]
    if sun:
        row, column = _SUN_CENTRE
        scene[np.hypot(rows - row, columns - column) <= _SUN_RADIUS] = _SUN
    scene[_GRASS_TOP:] = _GRASS
    scene[_WALL_BOX] = _WALL
    top, eaves = _ROOF_TOP, _WALL_BOX[0].start
    left, right = _WALL_BOX[1].start - 2, _WALL_BOX[1].stop + 1
    slope = (right - left) / 2 / (eaves - top)
    scene[(rows >= top) & (rows < eaves) & (np.abs(columns - (left + right) / 2) <= (rows - top + 1) * slope)] = _ROOF
    frame = tuple(slice(side.start - 1, side.stop + 1) for side in _WINDOW)
    scene[frame] = _FRAME
    scene[_POST_BOX] = _POST
    return scene


def _window() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the view in the window without the curtain, and that of the closed curtain with its folds."""
    height, width = (side.stop - side.start for side in _WINDOW)
    room, cloth = (np.empty((height, width, 3), np.float32) for _ in range(2))
    room[:] = _ROOM
    folds = np.arange(width) // 2 % 2
    cloth[:] = np.array(_CLOTH, np.float32)[folds]
    return room, cloth


_HEADINGS = {1: _PLANE, -1: tuple(row[::-1] for row in _PLANE)}
