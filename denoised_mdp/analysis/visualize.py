"""Pictures of a model's latents: an episode decoded part by part, and predicted open-loop, as arrays, mp4 and PNG.

Shapes: T = rows of the episode, H W = image. Pictures are uint8.
"""

from __future__ import annotations

import errno
import subprocess
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from denoised_mdp.analysis.posterior import filter_episode, present
from denoised_mdp.errors import UserError, one_line
from denoised_mdp.model.latent import NOISE_PARTS, Factor, Latent
from denoised_mdp.model.protocol import WorldModel

GAP = 2  # pixels between pictures
SCALE = 2  # enlargement of the small frames


@jax.jit
def decode(world_model: WorldModel, s: Latent[Factor]) -> jax.Array:
    """Decodes latents [T, ...] to pictures [T, H, W, 3] uint8."""
    return _uint8(world_model.decode(s))


@jax.jit
def layers(world_model: WorldModel, s: Latent[Factor]) -> OrderedDict[str, jax.Array]:
    """Returns the layers of the model's pictures by title, [T, H, W, 3] uint8; only TIA has any."""
    return jax.tree.map(_uint8, world_model.layers(s))


def _uint8(pictures: jax.Array) -> jax.Array:
    return jnp.round(jnp.clip(pictures + 0.5, 0, 1) * 255).astype(jnp.uint8)


def freeze(s: Latent[Factor], parts: Collection[str], at: int) -> Latent[Factor]:
    """Returns the same latents [T, ...], but with the named parts fixed as in row `at`."""
    frozen = {name: jax.tree.map(lambda v: jnp.broadcast_to(v[at], v.shape), getattr(s, name)) for name in parts}
    return s._replace(**frozen)


@jax.jit
def predict(world_model: WorldModel, s: Latent[Factor], action: jax.Array, key: jax.Array) -> Latent[Factor]:
    """Predicts open-loop: latents [T, ...] by the priors alone, from one latent [...] under the next actions [T, A]."""

    def body(s, inputs):
        s = world_model.transition.imagine_step(s, *inputs)
        return s, s

    noise = world_model.transition.noise(key, action.shape[:1])
    return jax.lax.scan(body, s, (action, noise))[1]


def decompose(
    world_model: WorldModel,
    observation: np.ndarray,
    action: np.ndarray,
    key: jax.Array,
    *,
    frozen_at: int | None = None,
    context: int | None = None,
) -> dict[str, np.ndarray]:
    """Returns rows of pictures [T, H, W, 3] uint8 by title: an episode [T, ...] as the model decodes it.

    frozen_at: the row whose latents replace the frozen parts, the middle one if None;
    context: rows filtered before the prediction; if None, 25, or half of a shorter episode.

    Raises:
        UserError: `frozen_at` or `context` lies outside the episode.
    """
    frozen_at = len(action) // 2 if frozen_at is None else frozen_at
    context = min(25, len(action) // 2) if context is None else context
    for name, row in (("frozen_at", frozen_at), ("context", context)):
        if not 0 <= row < len(action) or (name == "context" and row == 0):
            raise UserError(f"{name} is {row}, but the episode has {len(action)} rows")
    infer_key, predict_key = jax.random.split(key)
    s = filter_episode(world_model, jnp.asarray(observation), jnp.asarray(action), infer_key).s
    ahead = predict(world_model, jax.tree.map(lambda v: v[context - 1], s), action[context:], predict_key)
    open_loop = jax.tree.map(lambda past, future: jnp.concatenate([past[:context], future]), s, ahead)
    noise = [part for part in present(s) if part in NOISE_PARTS]
    rows = {"observation": observation, "reconstruction": decode(world_model, s)}
    if noise:  # else there is only x
        rows[f"signal: x moves, {' '.join(noise)} frozen"] = decode(world_model, freeze(s, noise, frozen_at))
        rows[f"noise: {' '.join(noise)} {'moves' if len(noise) == 1 else 'move'}, x frozen"] = decode(
            world_model, freeze(s, ["x"], frozen_at)
        )
    rows |= layers(world_model, s)
    rows[f"open loop after {context} frames"] = decode(world_model, open_loop)
    return {title: np.asarray(pictures) for title, pictures in rows.items()}


def write(
    name: Path, rows: dict[str, np.ndarray], *, columns: int = 8, labels: Sequence[str] | None = None
) -> tuple[Path, Path]:
    """Writes `name`.png and `name`.mp4, and returns both paths. `labels`: of the frames, if they are not steps.

    Without ffmpeg the video is a GIF with fewer colours.
    """
    name.parent.mkdir(parents=True, exist_ok=True)
    picture, video = name.with_suffix(".png"), name.with_suffix(".mp4" if ffmpeg() else ".gif")
    strip(rows, columns=columns, labels=labels).save(picture)
    write_video(video, rows)
    return picture, video


def strip(rows: dict[str, np.ndarray], *, columns: int = 8, labels: Sequence[str] | None = None) -> Image.Image:
    """Returns a row of pictures per title: `columns` evenly spaced frames, each above its label or its number."""
    length = len(next(iter(rows.values())))
    moments = np.linspace(0, length - 1, min(columns, length)).round().astype(int)
    pictures = [[_enlarge(frames[t]) for t in moments] for frames in rows.values()]
    size = pictures[0][0].size[0]
    font = ImageFont.load_default(14)
    margin = max(int(font.getlength(title)) for title in rows) + 12
    sheet = Image.new("RGB", (margin + len(moments) * (size + GAP), len(rows) * (size + GAP) + 20), "white")
    draw = ImageDraw.Draw(sheet)
    for i, title in enumerate(rows):
        top = i * (size + GAP)
        draw.text((margin - 6, top + size // 2), title, fill="black", font=font, anchor="rm")
        for j, picture in enumerate(pictures[i]):
            sheet.paste(picture, (margin + j * (size + GAP), top))
    for j, t in enumerate(moments):
        label = f"step {t}" if labels is None else str(labels[t])
        draw.text((margin + j * (size + GAP) + size // 2, len(rows) * (size + GAP) + 2), label, "black", font, "ma")
    return sheet


def write_strip(path: Path, rows: dict[str, np.ndarray], *, columns: int) -> None:
    """Writes `strip` as a PNG."""
    strip(rows, columns=columns).save(path)


def write_video(path: Path, rows: dict[str, np.ndarray], *, frames_per_second: float = 25) -> None:
    """Writes an mp4, or a GIF if `path` ends so: the rows side by side, each under its title."""
    font = ImageFont.load_default(11)
    side = len(next(iter(rows.values()))[0]) * SCALE
    width = max(side, 150) + GAP
    header = Image.new("RGB", (width * len(rows), side + 34), "white")
    for i, title in enumerate(rows):
        ImageDraw.Draw(header).multiline_text((i * width + 2, 2), title.replace(": ", ":\n"), "black", font, spacing=2)
    sheets = []
    for pictures in zip(*rows.values(), strict=True):
        sheet = header.copy()
        for i, picture in enumerate(pictures):
            sheet.paste(_enlarge(picture), (i * width, 34))
        sheets.append(np.asarray(sheet))
    if path.suffix == ".gif":
        first, *others = map(Image.fromarray, sheets)
        first.save(path, save_all=True, append_images=others, duration=round(1000 / frames_per_second), loop=0)
        return
    encode(path, np.stack(sheets), frames_per_second=frames_per_second)


def ffmpeg() -> str | None:
    """Returns the program that writes an mp4, part of imageio-ffmpeg's wheel; None if it is missing."""
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        return None


def encode(path: Path, frames: np.ndarray, *, frames_per_second: float) -> None:
    """Writes frames [T, H, W, 3] uint8, H and W even, as an mp4 (H.264).

    It calls imageio-ffmpeg's ffmpeg itself: the package's own writer forks, which is not safe beside jax's threads.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    _, height, width, _ = frames.shape
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(frames_per_second), "-i", "-"]
    command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "veryfast", "-crf", "18", str(path)]
    done = subprocess.run(command, input=frames.tobytes(), stderr=subprocess.PIPE, check=False, start_new_session=True)
    if done.returncode:
        reason = one_line(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}"
        raise OSError(errno.EIO, f"ffmpeg could not write it ({reason})", str(path))


def _enlarge(frame: np.ndarray) -> Image.Image:
    image = Image.fromarray(frame)
    return image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.NEAREST)
