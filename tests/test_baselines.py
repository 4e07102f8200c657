"""What has not learned earns, and the word on whether an agent earns more."""

import json

import numpy as np
import pytest

from denoised_mdp.analysis import baselines
from denoised_mdp.analysis.baselines import Baselines


@pytest.mark.parametrize(
    ("low", "learned"),
    [(16.1, True), (16.0, False), (8.0, False), (-1.0, False)],
)
def test_an_agent_has_learned_that_earns_more_than_the_best_of_what_has_not(low, learned):
    said, sentence = Baselines(random=7.6, constant=4.1, untrained=16.0).verdict(low)
    assert said == learned
    assert sentence == (
        f"it has {'learned' if learned else 'not learned'}; for comparison, a random policy 7.6, "
        "the best constant action 4.1, this agent before training 16.0"
    )


def test_a_run_without_an_evaluation_at_its_start_has_no_untrained_agent():
    learned, sentence = Baselines(random=7.6, constant=4.1, untrained=None).verdict(8.0)
    assert learned and "before training" not in sentence


def test_baselines_of_a_run_are_its_task_s_and_its_own_first_evaluation(tmp_path):
    lines = [{"env_step": step, "evaluate/return_mean": 3.0 + step} for step in (0, 1000)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = baselines.of_run("cheetah_run", 2, tmp_path, episodes=1, candidates=12)
    world, rng = baselines.suite_world("cheetah_run", seed=0), np.random.default_rng(0)
    assert found.untrained == 3.0
    assert found.random == baselines.random_returns(world, rng, episodes=1, action_repeat=2)[0]
    assert 0 <= found.constant < 100
