"""Composes a checked configuration from overrides and the files of `configs/`, and names its run.

Hydra composes; this module reports in one line the mistakes that Hydra reports in many lines, or not at all.
"""

from __future__ import annotations

import importlib.resources
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from denoised_mdp.config import Config, sections
from denoised_mdp.config import schema as settings
from denoised_mdp.errors import UserError, did_you_mean, nearest, one_line

_PACKAGE = Path(__file__).resolve().parents[1]
# A folder in an installed package; in a checkout a link to the folder at the top, which may be lost in a copy.
_PLACES = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
CONFIGS = next(filter(Path.is_dir, _PLACES), _PLACES[0]).resolve()
SEARCHPATH = "hydra.searchpath"  # the setting of Hydra that names folders of configurations beside ours
LISTED = 8  # choices of a group that an error lists; it only counts the rest
NAMED = ("env", "env.task", "noise", "model", "size", "seed", "seeds")  # every run's name contains these

Groups = dict[str, list[str]]  # the choices of each group


def compose(overrides: Sequence[str]) -> Config:
    """Returns the checked configuration from `overrides` and `configs/`; of several seeds, that of the first.

    Raises: as `compose_seeds`.
    """
    return compose_seeds(overrides)[0]


def compose_seeds(overrides: Sequence[str]) -> list[Config]:
    """Returns the checked configurations from `overrides` and `configs/`, one for each of `seeds`.

    Raises:
        UserError: an override is malformed or names no setting, or a value is wrong.
    """
    overrides = [at_home(text) for text in overrides]
    choices = groups(overrides)
    for override in parse_overrides(overrides):
        check_override(override, choices)
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra.compose("config", [_forced(text, choices) for text in overrides], return_hydra_config=True)
        return resolve(composed, composed.hydra)
    except (HydraException, OmegaConfBaseException) as error:
        # The first lines contain the message; then follow Hydra's search path and OmegaConf's own names.
        text = one_line(error).split(" Config search path")[0].split(" object_type=")[0].split(" To append")[0]
        raise UserError(text + ("; pip install hydra-submitit-launcher" if "submitit" in text else "")) from error


def _forced(text: str, groups: Groups) -> str:
    """Returns the override, forced if it is a setting, so that `parse` reports a setting of another `policy`."""
    (override,) = parse_overrides([text])
    key = override.key_or_group
    return f"++{text}" if key in settings.names() and key not in groups else text


def resolve(values: DictConfig, hydra_config: Any) -> list[Config]:
    """Returns one Config per seed from Hydra's result, equal to that of a single run with this seed.

    A missing run_dir gets the run's name; if several seeds share a run_dir, each gets a folder in it.
    """
    values = OmegaConf.masked_copy(values, [str(k) for k in values if k != "hydra"])
    first = _resolve_one(values, hydra_config)
    if first.seeds == 1:
        return [first]
    configs = []
    for seed in range(first.seed, first.seed + first.seeds):
        changes: dict[str, Any] = {"seed": seed, "seeds": 1}
        if values.run_dir is not None:
            changes["run_dir"] = str(Path(first.run_dir, f"seed{seed}"))
        configs.append(_resolve_one(OmegaConf.merge(values, changes), hydra_config))
    return configs


def _resolve_one(values: Any, hydra_config: Any) -> Config:
    plain = OmegaConf.to_container(values, resolve=True)
    assert isinstance(plain, dict)
    tree = {str(key): value for key, value in plain.items()}
    tree["model"] = _fitting(tree["model"], hydra_config.overrides.task)
    named = tree.get("run_dir") is not None
    config = settings.parse(tree if named else tree | {"run_dir": "runs"})
    if named:
        return config
    name = run_name(config, hydra_config.runtime.choices, hydra_config.overrides.task)
    return config.model_copy(update={"run_dir": str(Path("runs", name))})


def _fitting(model: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Returns `model` without settings of the other kind of model from configs/; keeps those from `overrides`, to fail.

    So experiment=... works with every model, though it sets the beta that TIA does not have.
    """
    given = {override.key_or_group for override in parse_overrides(list(overrides))}
    foreign = [name for name in sections.of_other_models(model) if f"model.{name}" not in given]
    return {name: value for name, value in model.items() if name not in foreign}


def run_name(config: Config, choices: Any, overrides: Iterable[str]) -> str:
    """Returns the default name of a run: the same for the same overrides in any order.

    It is, say, cheetah_run-none-xy-small-seed0, with every other override that makes another run, as -model.beta_0.25.
    A name that is too long, or has characters unfit for a file's name, is shortened and cleaned, with a checksum.
    """
    name = f"{config.env.task}-{choices['noise']}-{choices['model']}-{choices['size']}-seed{config.seed}"
    others = {}
    for override in parse_overrides(list(overrides)):
        key = override.key_or_group
        if key not in NAMED and not settings.is_changeable(key):
            value = override.get_value_element_as_str()
            others[key] = value.replace("/", "-") if key == "experiment" else value
    full = name + "".join(f"-{key}_{value}" for key, value in sorted(others.items()))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", full)
    if plain == full and len(full) <= 120:
        return plain
    return f"{plain[:110].rstrip('-_.')}-{zlib.crc32(full.encode()):08x}"


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Returns each key=value as parsed by Hydra.

    Raises:
        UserError: one is malformed.
    """
    parser = OverridesParser.create()
    parsed = []
    for text in map(at_home, overrides):
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            raise UserError(f"cannot read {text!r}: write a setting as key=value{_hint(text)}") from error
    return parsed


def at_home(text: str) -> str:
    """Returns an override with the user's home for a ~ at the beginning of its values, as bash would replace it.

    Other shells leave the ~, and Hydra cannot read it.
    """
    key, _, value = text.partition("=")
    parts = value.split(",")
    if not any(part.startswith("~") for part in parts):
        return text
    return f"{key}={','.join(quoted(os.path.expanduser(part)) if part[:1] == '~' else part for part in parts)}"


def quoted(value: str) -> str:
    """Returns a value as an override needs it: in quotation marks, unless it is plain."""
    return value if re.fullmatch(r"[\w./-]+", value) else '"' + value.replace('"', '\\"') + '"'


def _hint(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals:
        return did_you_mean(text, [f"{name}=..." for name in settings.names()])
    return f", and quote a value with special characters twice: '{key}=\"{value}\"'"


def check_override(override: Override, groups: Groups) -> None:
    """Checks that an override names a setting, or one of the groups with one of its choices.

    Raises:
        UserError: the override names none; the message suggests the most similar ones.
    """
    key, text = override.key_or_group, override.input_line
    if isinstance(override.value(), Glob):
        raise UserError(f"{text}: name the values of a sweep, as a,b,c")
    if key.split(".")[0].split("/")[0] == "hydra":
        return
    names = settings.names()
    if override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None:
        advice = f"; write {key}=..." if key in groups or key in names else did_you_mean(key, [*groups, *names])
        raise UserError(f"{text}: settings can be changed, not added or removed{advice}")
    if key in groups:
        choices = groups[key]
        values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
        for value in values:
            if value not in choices and not (key == "experiment" and value is None):
                by_likeness = list(dict.fromkeys([*nearest(str(value), choices), *choices]))
                more = f" and {len(choices) - LISTED} more in configs/{key}" if len(choices) > LISTED else ""
                listed = ", ".join(by_likeness[:LISTED]) + more
                raise UserError(f"{key}={value}: there is no such choice, only {listed}")
    else:
        for name in _named(key, override.value()):
            if name not in names and not name.startswith(tuple(f"{free}." for free in sections.FREE)):
                at = "" if name == key else f"{name}: "
                raise UserError(f"{text}: {at}there is no such setting{did_you_mean(name, [*groups, *names])}")


def _named(key: str, value: Any) -> Iterator[str]:
    """Yields the names that key=value sets; a value {name:value,...} sets several."""
    yield key
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _named(f"{key}.{name}", inner)


def groups(overrides: Sequence[str] = ()) -> Groups:
    """Returns the groups and their choices: folders and files of `configs/`, and of a search path in `overrides`.

    Raises:
        UserError: a folder is missing.
    """
    if not CONFIGS.is_dir():
        raise UserError(f"{CONFIGS} is missing: install the package again")
    choices_of: Groups = {}
    for root in [CONFIGS, *_search_path(overrides)]:
        for file in sorted(root.glob("*/**/*.yaml")):
            group, *choice = file.relative_to(root).with_suffix("").parts
            if group != "hydra":
                choices_of.setdefault(group, []).append("/".join(choice))
    return {group: sorted(set(choices)) for group, choices in sorted(choices_of.items())}


def _search_path(overrides: Sequence[str]) -> list[Path]:
    """Returns the folders of hydra.searchpath=[file://FOLDER,pkg://PACKAGE] in `overrides`."""
    folders = []
    for override in parse_overrides(overrides):
        if override.key_or_group == SEARCHPATH:
            places = override.value()
            for place in places if isinstance(places, list) else [places]:
                scheme, _, name = str(place).rpartition("://")
                folder = _folder_of_package(name) if scheme == "pkg" else Path(name)
                if folder is None or not folder.is_dir():
                    raise UserError(f"{override.input_line}: {place} is not a folder of configurations")
                folders.append(folder)
    return folders


def _folder_of_package(name: str) -> Path | None:
    try:
        return Path(str(importlib.resources.files(name)))
    except (ImportError, TypeError):
        return None
