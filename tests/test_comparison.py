"""Several factorizations in one picture."""

import json

import pytest

from denoised_mdp.analysis.factorization import comparison
from denoised_mdp.errors import UserError

KINDS = {"curtain": "controlled_rewarded", "weather": "rewarded", "reward": None}


def make_report(folder, model, seed, *, curtain, weather=0.0, recorded=5):
    score = {"curtain": curtain, "weather": weather, "reward": 0.5}
    parts = ["x"] if model == "x" else ["x", "y"]
    report = {
        "seed": seed,
        "env_step": 100,
        "run_dir": str(folder),
        "clean_pairs": {},
        "reconstruction": {},
        "model": {"name": model},
        "recordings": {"seed": recorded},
        "parts": {part: {} for part in parts},
        "headline": {
            "signal_in_x": {"value": curtain},
            "noise_in_x": {"value": weather, "factor": "weather"},
            "signal_outside_x": None,
        },
        "alarms": [{"name": "leaking"}] if weather > 0.3 else [],
        "matrix": {
            name: {"kind": kind}
            | {part: {"linear": {"score": score[name]}, "nonlinear": {"score": 0}} for part in parts}
            for name, kind in KINDS.items()
        },
    }
    folder.mkdir()
    (folder / "factorization.json").write_text(json.dumps(report))
    return folder


def test_seeds_are_averaged_by_model_and_all_are_told(tmp_path):
    folders = [
        make_report(tmp_path / "b", "xy", 1, curtain=0.5),
        make_report(tmp_path / "a", "xy", 0, curtain=1.0),
        make_report(tmp_path / "c", "x", 0, curtain=1.0, weather=0.9),
    ]
    models = comparison.read(folders)
    assert list(models) == ["x", "xy"] and comparison.scores(models["xy"], "curtain", "x") == [1.0, 0.5]
    table = comparison.markdown(models)
    assert "| **1.00** (1.00) | **0.75** (1.00, 0.50) |" in table and "| leaking | none; none |" in table
    assert "| noise leaked into x | **0.90** (0.90) | **0.00** (0.00, 0.00) |" in table and "stranded" not in table
    numbers = comparison.summary(models)
    assert [report["seed"] for report in numbers["xy"]] == [0, 1] and str(tmp_path) not in json.dumps(numbers)
    figure = comparison.draw(models)
    told = [text.get_text() for text in figure.axes[1].texts]
    assert "0.75" in told and "1.00 0.50" in told and told.count("to drop") == 1  # the weather
    assert [text.get_text() for text in figure.axes[0].texts].count("to keep") == 2


@pytest.mark.parametrize(
    ("second", "message"),
    [({"model": "xy", "seed": 0}, "same seed"), ({"model": "x", "seed": 0, "recorded": 6}, "different recordings")],
)
def test_what_cannot_be_compared_is_refused(second, message, tmp_path):
    folders = [make_report(tmp_path / "a", "xy", 0, curtain=1.0)]
    folders.append(make_report(tmp_path / "b", second.pop("model"), second.pop("seed"), curtain=1.0, **second))
    with pytest.raises(UserError, match=message):
        comparison.read(folders)
    with pytest.raises(UserError, match=r"c/factorization\.json cannot be read"):
        comparison.read([tmp_path / "c"])


def test_a_model_of_one_s_own_name_comes_last(tmp_path):
    folders = [make_report(tmp_path / name, name, 0, curtain=1.0) for name in ("mine", "xy")]
    models = comparison.read(folders)
    assert list(models) == ["xy", "mine"]
    assert [axes.get_title().strip() for axes in comparison.draw(models).axes] == ["x and y\n(Fig. 2b)", "mine"]
