"""Measures how well a trained model tells signal from noise: python scripts/factorization.py run_dir=runs/try"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from denoised_mdp import cli, run_dir
from denoised_mdp.config import Config, Size, Text
from denoised_mdp.errors import UserError

if TYPE_CHECKING:
    from denoised_mdp.agent import Agent, TrainState
    from denoised_mdp.analysis.recordings import Policy


class Options(cli.RunOptions):
    """What each latent part knows of the truth, in held-out episodes: factorization.json, .md and .png in the run."""

    data: Text | None = Field(
        None, description="a file of recorded episodes, written if it is not there: give several models the same one"
    )
    repeats: Annotated[int, Field(ge=2)] = Field(2, description="episodes to record of each policy in each environment")
    policies: Annotated[list[Text], Field(min_length=1)] = Field(
        ["uniform", "bang_bang", "self"],
        description="who acts while recording: uniform, bang_bang, self, or folders of other runs",
    )
    clips: Size = Field(4, description="environments to record in, each with its own video and start")
    physics: Annotated[int, Field(ge=2)] = Field(4, description="clean pairs: how many episodes are seen again")
    noises: Annotated[int, Field(ge=2)] = Field(2, description="clean pairs: under how many noises each")
    out: Text | None = Field(None, description="the folder to write to; default: the run's")


def main(config: Config, checkpoint: Path, options: Options) -> None:
    """Measures, writes the report and prints its headline."""
    import jax

    from denoised_mdp.analysis import recordings, report
    from denoised_mdp.analysis.measure import measure
    from denoised_mdp.evaluation import evaluation_envs, load_agent

    world = {"env": config.env.model_dump(), "noise": config.noise.model_dump()}
    if options.data is not None and Path(options.data).exists():
        episodes = recordings.load(Path(options.data))
        refuse_another_world(f"data={options.data}", episodes.about, world)
        _, state = load_agent(config, episodes.episodes[0].action.shape[-1], checkpoint)
    else:
        envs = evaluation_envs(config, episodes=options.clips, seed=options.seed)
        agent, state = load_agent(config, envs[0].action_size, checkpoint)
        episodes = recordings.collect(
            envs,
            {name: policy(name, config, agent, state) for name in options.policies},
            repeats=options.repeats,
            physics=options.physics,
            noises=options.noises,
            seed=options.seed,
            about=world | {"render": config.render.model_dump()},
        )
        if options.data is not None:
            recordings.save(episodes, Path(options.data))
    found = measure(state.world_model, episodes, jax.random.key(options.seed))
    about = {
        "title": f"{config.env.task}, model={config.model.name}, seed {config.seed}, env step {int(checkpoint.name)}",
        "run_dir": options.run_dir,
        "env_step": int(checkpoint.name),
        "seed": config.seed,
        "model": config.model.model_dump(),
    }
    folder = Path(options.out or options.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = report.write(folder, about | found)
    for name, title in report.HEADLINE.items():
        print(f"{title}: {report.told(found['headline'][name])}")
    for alarm in found["alarms"]:
        print(f"ALARM, {alarm['name']}: {alarm['text']}")
    print(*paths, sep="\n")


def policy(name: str, config: Config, agent: Agent, state: TrainState) -> Policy:
    """The policy of an option's name; `agent` and `state` are this run's, `self`.

    Raises:
        UserError: it names neither a policy nor the folder of a run in this world.
    """
    from denoised_mdp.analysis import recordings
    from denoised_mdp.evaluation import load_agent

    if name in recordings.RANDOM:
        return recordings.RANDOM[name](agent.action_size)
    if name != "self":
        other = run_dir.load(Path(name))
        refuse_another_world(f"policies: {name}", {"env": other.env.model_dump()}, {"env": config.env.model_dump()})
        agent, state = load_agent(other, agent.action_size, run_dir.checkpoint(Path(name), "latest"))
    return recordings.trained(agent, state)


def refuse_another_world(what: str, theirs: dict, ours: dict) -> None:
    """Raises a UserError that names the settings in which two worlds differ, if any."""
    differ = [
        f"{section}.{name}: {theirs[section].get(name)} -> {value}"
        for section in ours
        for name, value in ours[section].items()
        if theirs[section].get(name) != value
    ]
    if differ:
        raise UserError(f"{what} is of another world ({', '.join(differ)})")


if __name__ == "__main__":
    cli.look(main, Options)
