"""Predicts joint positions from pictures with a trained encoder, and with a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from denoised_mdp import cli
from denoised_mdp.config import Config
from denoised_mdp.config.sections import Count, NotNegative, Positive, Size, Text


class Options(cli.RecordingOptions):
    """Predicts joint positions from single pictures, with a run's encoder and a new one: regress.json, .md and .png."""

    factor: Text = Field("position", description="the true factor to predict; position is that of the joints")
    elements: Annotated[list[Count], Field(min_length=1)] | None = Field(
        None, description="elements of the factor; default: all that vary"
    )
    encoders: Annotated[list[Literal["finetuned", "frozen", "scratch"]], Field(min_length=1)] = Field(
        ["finetuned", "frozen", "scratch"], description="the run's encoder, trained further or unchanged, and a new one"
    )
    sizes: Annotated[list[Size], Field(min_length=1)] = Field(
        [500, 1000, 2000, 4000],
        description="sizes of train sets, in pairs of picture and joints; the paper's: 5000 to 150000",
    )
    test: Size = Field(4000, description="the most test pairs, from other episodes")
    updates: Size = Field(3000, description="updates of each network; the paper has no number")
    batch_size: Size = Field(128, description="pairs in an update; the paper has no number")
    learning_rate: Positive = Field(8e-5, description="the paper's (Sec. B.1.1)")
    weight_decay: NotNegative = Field(3e-5, description="the paper's (Sec. B.1.1); a new encoder has none")


def main(config: Config, checkpoint: Path, options: Options) -> None:
    """Trains, tests, writes the report and prints a line for each network."""
    import jax

    from denoised_mdp.agent import Agent
    from denoised_mdp.analysis import regression_report
    from denoised_mdp.analysis.obtain import obtain
    from denoised_mdp.analysis.regression import Schedule, regress, split
    from denoised_mdp.model.optimizer import Adam

    state, recordings = obtain(
        config,
        checkpoint,
        data=options.data,
        policies=options.policies,
        repeats=options.repeats,
        clips=options.clips,
        seed=options.seed,
    )
    sizes = sorted(set(options.sizes))
    data = split(recordings, options.factor, sizes, test=options.test, elements=options.elements, seed=options.seed)
    new_key, key = jax.random.split(jax.random.key(options.seed))
    new = Agent(config, recordings.episodes[0].action.shape[-1]).create(new_key)
    results = {}
    for how in dict.fromkeys(options.encoders):
        encoder = (new if how == "scratch" else state).world_model.encoder
        decay = 0.0 if how == "scratch" else options.weight_decay
        optimizer = Adam(options.learning_rate, epsilon=1e-8, clip_norm=None, weight_decay=decay)
        schedule = Schedule(optimizer, options.updates, options.batch_size)
        results[how] = []
        for size in sizes:
            result = regress(encoder, data, size, schedule, key, frozen=how == "frozen")
            results[how].append(result._asdict())
            title = regression_report.TITLES[how]
            print(f"{title}, {size} rows: mse {result.mse:.3g}, {result.unexplained:.3g} unexplained")
    report = {
        "title": f"{config.env.task}, model={config.model.name}, seed {config.seed}, env step {int(checkpoint.name)}",
        "run_dir": options.run_dir,
        "env_step": int(checkpoint.name),
        "model": config.model.model_dump(),
        **{
            name: getattr(options, name)
            for name in ("factor", "updates", "batch_size", "learning_rate", "weight_decay")
        },
        "sizes": sizes,
        "columns": data.names,
        "constant_mse": float((data.spread**2).mean()),
        "test_rows": len(data.test.columns),
        "test_episodes": len(set(data.test.episode.tolist())),
        "results": results,
        "recordings": recordings.about,
    }
    print(*regression_report.write(options.folder(), report), sep="\n")


def command() -> None:
    """The command line."""
    cli.look(main, Options)
