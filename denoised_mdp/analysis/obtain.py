"""Recorded episodes at a user's request: from a file, or by named policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.analysis import recordings
from denoised_mdp.analysis.recordings import Policy, Recordings
from denoised_mdp.config import Config
from denoised_mdp.errors import UserError
from denoised_mdp.runs import run_dir
from denoised_mdp.runs.evaluation import evaluation_envs, load_agent


def obtain(
    config: Config,
    checkpoint: Path,
    *,
    data: str | None,
    policies: Sequence[str],
    repeats: int,
    clips: int,
    seed: int,
    physics: int = 0,
    noises: int = 0,
    robot: bool = False,
) -> tuple[TrainState, Recordings]:
    """Returns the state of a checkpoint, and episodes of its world. It reads the file `data`, or writes a missing one.

    clips: number of environments to record in, each with its own video; for the rest see `recordings.collect`.

    Raises:
        UserError: the file comes from another world, or a policy has an unknown name.
    """
    world = {"env": config.env.model_dump(), "noise": config.noise.model_dump()}
    if data is not None and Path(data).exists():
        result = recordings.load(Path(data))
        refuse_another_world(f"data={data}", result.about, world)
        _, state = load_agent(config, result.episodes[0].action.shape[-1], checkpoint)
        return state, result
    envs = evaluation_envs(config, episodes=clips, seed=seed)
    agent, state = load_agent(config, envs[0].action_size, checkpoint)
    result = recordings.collect(
        envs,
        {name: policy(name, config, agent, state) for name in policies},
        repeats=repeats,
        physics=physics,
        noises=noises,
        seed=seed,
        about=world | {"render": config.render.model_dump()},
        robot=robot,
    )
    if data is not None:
        recordings.save(result, Path(data))
    return state, result


def policy(name: str, config: Config, agent: Agent, state: TrainState) -> Policy:
    """Returns a policy by its name in an option; the name `self` stands for `agent` with `state`.

    Raises:
        UserError: the name is neither a policy's nor the folder of a run in this world.
    """
    if name in recordings.RANDOM:
        return recordings.RANDOM[name](agent.action_size)
    if name != "self":
        other = run_dir.load(Path(name))
        refuse_another_world(f"policies: {name}", {"env": other.env.model_dump()}, {"env": config.env.model_dump()})
        agent, state = load_agent(other, agent.action_size, run_dir.checkpoint(Path(name), "latest"))
    return recordings.trained(agent, state)


def refuse_another_world(what: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Checks that two worlds are the same.

    Raises:
        UserError: they differ; the message names the settings.
    """
    differences = [
        f"{section}.{name}: {theirs[section].get(name)} -> {value}"
        for section in ours
        for name, value in ours[section].items()
        if theirs[section].get(name) != value
    ]
    if differences:
        raise UserError(f"{what} comes from another world ({', '.join(differences)})")
