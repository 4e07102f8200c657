"""User files that a run depends on besides its settings, identified by their content and not by their path.

`sources.json` in a run's folder holds their identities from the start of the run. No jax here.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from denoised_mdp.config import Config
from denoised_mdp.config import schema as settings
from denoised_mdp.config.sections import Custom
from denoised_mdp.runs import disk

FILE = "sources.json"
VIDEOS, CONSTRUCTOR, REPLAY = "noise.source", "env.constructor", "replay.source"
PATHS = (VIDEOS, CONSTRUCTOR, REPLAY)  # settings that name a file or a folder
_SAMPLE = 4096  # bytes from the middle of each file


def differences(folder: Path, old: Config, new: Config) -> list[str]:
    """Returns `settings.differences`, except for paths to the same files. `old` configures the run in `folder`."""
    changes = {text.split(":")[0]: text for text in settings.differences(old, new)}
    moved = [name for name in PATHS if name in changes and _same(folder, old, new, name)]
    return [text for name, text in changes.items() if name not in moved]


def changed_videos(folder: Path, config: Config) -> str | None:
    """Returns a sentence if the videos differ from those at the start of the run in `folder`, else None."""
    before, now = _recorded(folder).get(VIDEOS), _identities(config).get(VIDEOS)
    if before is None or now is None or before == now:
        return None
    return (
        f"{VIDEOS}={config.noise.source} holds other files than at the start of the run, "
        "which would change the division into clips for training and for evaluation"
    )


def changed_replay(folder: Path, config: Config) -> str | None:
    """Returns a sentence if the replay to learn from has lost what it held at the run's last start, else None."""
    before, now = _recorded(folder).get(REPLAY), config.replay.source
    if before is None or now is None or _same_replay(Path(now).expanduser(), before):
        return None
    return f"{REPLAY}={now} does not hold the episodes of the run's last start any more"


def note(folder: Path, config: Config) -> None:
    """Records the files that the run in `folder` depends on: its videos only once, its code and replay as they are."""
    old = _recorded(folder)
    new = _identities(config) | {name: old[name] for name in (VIDEOS,) if name in old}
    if new != old:
        partial = folder / f"{FILE}.partial"
        partial.write_text(json.dumps(new, indent=1) + "\n")
        disk.sync(partial)
        partial.replace(folder / FILE)


def _same(folder: Path, old: Config, new: Config, name: str) -> bool:
    before, now = (_value(config, name) for config in (old, new))
    if before is None or now is None:
        return False
    if name == CONSTRUCTOR:
        (before, _, function), (now, _, other) = before.rpartition(":"), now.rpartition(":")
        if function != other or not (before.endswith(".py") and now.endswith(".py")):
            return False
    if Path(before).expanduser().resolve() == Path(now).expanduser().resolve():
        return True
    recorded = _recorded(folder).get(name)
    if recorded is not None and name == REPLAY:
        return _same_replay(Path(now).expanduser(), recorded)
    return recorded is not None and recorded == _identities(new).get(name)


def _value(config: Config, name: str) -> str | None:
    section, key = name.split(".")
    return getattr(getattr(config, section), key, None)


def _recorded(folder: Path) -> dict[str, str]:
    """Returns the recorded identities; none if the file is missing (the first runs) or cannot be read."""
    try:
        identities = json.loads((folder / FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return identities if isinstance(identities, dict) else {}


def _identities(config: Config) -> dict[str, str]:
    """Returns a hash of the run's files, by the setting that names them; missing files are left out."""
    identities, noise = {}, config.noise
    folder = Path(noise.source).expanduser()
    if (noise.video_background or noise.television) and folder.is_dir():
        identities[VIDEOS] = _of_videos(folder)
    if isinstance(config.env, Custom):
        file = Path(config.env.constructor.rpartition(":")[0]).expanduser()
        if file.suffix == ".py" and file.is_file():
            identities[CONSTRUCTOR] = hashlib.sha256(file.read_bytes()).hexdigest()
    if config.replay.source is not None and (identity := _of_replay(Path(config.replay.source).expanduser())):
        identities[REPLAY] = identity
    return identities


def _of_replay(folder: Path, recorded: str | None = None) -> str | None:
    """Returns name, length and hash of the newest episode of a replay, which may grow later; None: there is none.

    With `recorded`, hashes the same bytes of the episode that it names.
    """
    folder = folder if (folder / "spec.json").exists() else folder / "replay"
    name, _, length = (recorded or "").rpartition(" ")[0].partition(" ")
    newest = max(folder.glob("episode-*.bin"), default=None) if recorded is None else folder / name
    if newest is None or not newest.is_file() or not (folder / "spec.json").exists():
        return None
    content = newest.read_bytes()[: int(length) if length.isdigit() else None]
    digest = hashlib.sha256((folder / "spec.json").read_bytes() + content).hexdigest()
    return f"{newest.name} {len(content)} {digest}"


def _same_replay(folder: Path, recorded: str) -> bool:
    return recorded == _of_replay(folder, recorded)


def _of_videos(folder: Path) -> str:
    """Returns a hash of the clips' names, sizes and a sample of each file; whole files would take too long to read."""
    from denoised_mdp.envs.video import directory  # imports imageio and PIL, which only such a folder needs

    identity = hashlib.sha256()
    for file in directory.files(folder):
        identity.update(f"{file.relative_to(folder).as_posix()}\n".encode(errors="surrogateescape"))
        try:
            size = file.stat().st_size
            with file.open("rb") as opened:
                opened.seek(max(0, size // 2 - _SAMPLE // 2))
                identity.update(f"{size}\n".encode() + opened.read(_SAMPLE))
        except OSError:
            identity.update(b"unreadable\n")
    return identity.hexdigest()
