"""Draws docs/model_graph.png, the graph of the model: python docs/model_graph.py

What the picture shows is what `transition.py` and `world_model.py` in denoised_mdp/model compute (the paper's Fig. 2b
and 2c).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

Point = tuple[float, float]

RADIUS = 0.34
INK = "#30363d"
EDGE = {"x": "#1f5fa8", "y": "#b85c00", "z": "#2d7d46", "seen": "#57606a"}
FILL = {"x": "#d8e8f8", "y": "#fde6cf", "z": "#d9f0df", "seen": "#e6e8eb"}
SIGNAL = "#f1f7fd"  # behind what the policy learns from

NOW, NEXT, OUT = 0.0, 2.9, 5.2  # columns: step t, step t + 1, and what step t + 1 emits
X, ACTION, Z, Y = 3.75, 2.45, 1.25, 0.0  # rows


def node(axes: Axes, at: Point, text: str, kind: str) -> None:
    """A variable; `kind` decides its colour."""
    axes.add_patch(Circle(at, RADIUS, facecolor=FILL[kind], edgecolor=EDGE[kind], linewidth=1.8, zorder=3))
    axes.text(*at, text, ha="center", va="center", fontsize=17, color=INK, zorder=4)


def arrow(axes: Axes, start: Point, end: Point, kind: str, *, policy: bool = False) -> None:
    """`end` depends on `start`; dashed where a policy makes the dependence."""
    gap = RADIUS * axes.transData.get_matrix()[0, 0] * 72 / axes.figure.dpi + 1.5  # points
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>,head_length=5,head_width=2.6",
            shrinkA=gap,
            shrinkB=gap,
            linewidth=1.7,
            color=EDGE[kind],
            zorder=2,
            linestyle=(0, (4, 2.5)) if policy else "solid",
        )
    )


def draw(axes: Axes, title: str, *, with_z: bool) -> None:
    """One graph: the three parts, or x and y alone."""
    axes.set_xlim(-0.75, 5.95)
    axes.set_ylim(-0.5, 5.6)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.text(-0.55, 5.26, title, fontsize=13.5, fontweight="bold", color=INK, va="center")
    for column, text in ((NOW, "step $t$"), (NEXT, "step $t+1$")):
        axes.text(column, 4.87, text, fontsize=11.5, color=EDGE["seen"], ha="center", va="center")

    box = FancyBboxPatch(
        (-0.55, ACTION - 0.47), 6.3, X - ACTION + 1.32, boxstyle="round,pad=0,rounding_size=0.25", facecolor=SIGNAL
    )
    box.set(edgecolor="#a9c8e8", linewidth=1, zorder=0)
    axes.add_patch(box)
    axes.text(
        OUT + 0.36, X + 0.6, "all that the policy learns from", fontsize=11, color=EDGE["x"], ha="right", va="center"
    )

    x, x_next, r_x = (NOW, X), (NEXT, X), (OUT, X)
    y, y_next, r_y = (NOW, Y), (NEXT, Y), (OUT, Y)
    a, o = (NOW, ACTION), (OUT, Z)

    arrow(axes, x, x_next, "x")
    arrow(axes, a, x_next, "seen")
    arrow(axes, x, a, "x", policy=True)
    axes.text(NOW + 0.12, (X + ACTION) / 2, r"$\pi(a|x)$", fontsize=12, color=EDGE["x"], va="center")
    arrow(axes, y, y_next, "y")
    arrow(axes, x_next, r_x, "x")
    arrow(axes, y_next, r_y, "y")
    arrow(axes, x_next, o, "x")
    arrow(axes, y_next, o, "y")
    if with_z:
        z, z_next = (NOW, Z), (NEXT, Z)
        arrow(axes, z, z_next, "z")
        arrow(axes, a, z_next, "seen")
        arrow(axes, x_next, z_next, "x")
        arrow(axes, y_next, z_next, "y")
        arrow(axes, z_next, o, "z")
        node(axes, z, "$z$", "z")
        node(axes, z_next, "$z'$", "z")
    for at, text, kind in (
        (x, "$x$", "x"),
        (x_next, "$x'$", "x"),
        (r_x, "$r_x$", "x"),
        (y, "$y$", "y"),
        (y_next, "$y'$", "y"),
        (r_y, "$r_y$", "y"),
        (a, "$a$", "seen"),
        (o, "$o'$", "seen"),
    ):
        node(axes, at, text, kind)


def legend(axes: Axes) -> None:
    """What the letters stand for."""
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 10)
    axes.axis("off")
    entries = (
        (2.0, 7.0, "x", "$x$  controllable and rewarded: the signal"),
        (2.0, 2.5, "y", "$y$  moves on its own, may add to the reward"),
        (51.0, 7.0, "z", "$z$  controllable, never rewarded"),
        (51.0, 2.5, "seen", "$a$  action,  $o'$  picture,  and  $r = r_x + r_y$  are observed"),
    )
    for left, row, kind, text in entries:
        axes.scatter([left], [row], s=130, facecolor=FILL[kind], edgecolor=EDGE[kind], linewidth=1.6)
        axes.text(left + 2, row, text, fontsize=12, color=INK, va="center")


def main() -> None:
    """Writes the picture beside this file."""
    plt.rcParams["mathtext.fontset"] = "cm"
    figure = plt.figure(figsize=(11, 5.6), dpi=150, facecolor="white")
    axes = [figure.add_axes((left, 0.14, 0.49, 0.86)) for left in (0.005, 0.505)]
    figure.canvas.draw()
    draw(axes[0], "model=xy  (Fig. 2b)", with_z=False)
    draw(axes[1], "model=xyz  (Fig. 2c)", with_z=True)
    legend(figure.add_axes((0.02, 0.005, 0.97, 0.125)))
    figure.savefig(Path(__file__).with_suffix(".png"), metadata={"Software": None})


if __name__ == "__main__":
    main()
