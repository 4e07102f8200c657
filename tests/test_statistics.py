"""Statistics of few runs, against scipy and cases that can be counted by hand."""

import numpy as np
import pytest
import scipy.stats

from denoised_mdp.analysis.statistics import (
    area_under_curve,
    estimate,
    interquartile_mean,
    probability_of_improvement,
    steps_to,
)


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    assert interquartile_mean([np.array([-1000.0, 2.0, 4.0, 6.0]), np.array([8.0, 10.0, 12.0, 1000.0])]) == 7.0


def test_the_interval_is_scipy_s_where_there_is_one_task():
    scores = np.random.default_rng(0).normal(100, 20, size=12)
    ours = estimate(interquartile_mean, [scores], rng=np.random.default_rng(1), repeats=20_000)
    theirs = scipy.stats.bootstrap(
        (scores,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.value == pytest.approx(scipy.stats.trim_mean(scores, 0.25))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.5)


def test_runs_are_drawn_within_their_task():
    """Tasks that differ widely, with equal runs: no resample differs, where an unstratified one would."""
    found = estimate(
        interquartile_mean, [np.full(3, 10.0), np.full(5, 900.0)], rng=np.random.default_rng(0), repeats=50
    )
    assert found.low == found.value == found.high


def test_the_probability_of_improvement_is_mann_whitney_s_u():
    rng = np.random.default_rng(0)
    ours, theirs = ([rng.integers(0, 9, runs).astype(float) for _ in range(2)] for runs in (5, 4))
    expected = [scipy.stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(ours, theirs, strict=True)]
    assert probability_of_improvement(ours, theirs) == pytest.approx(np.mean(expected))
    assert probability_of_improvement([np.array([1.0, 2.0])], [np.array([1.0])]) == 0.75
    certain = estimate(
        probability_of_improvement, [np.array([5.0, 6.0])], [np.array([1.0])], rng=np.random.default_rng(0), repeats=20
    )
    assert certain == (1.0, 1.0, 1.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = [
        found.low <= 0 <= found.high
        for found in (estimate(interquartile_mean, [rng.normal(size=20)], rng=rng, repeats=300) for _ in range(150))
    ]
    assert 0.85 < np.mean(covered) < 0.99


def test_the_area_and_the_steps_to_a_return_of_a_curve():
    steps, returns = np.array([0.0, 10.0, 20.0, 40.0]), np.array([0.0, 100.0, 50.0, 150.0])
    assert area_under_curve(steps, returns) == pytest.approx((500 + 750 + 2000) / 40)
    assert steps_to(60, steps, returns) == 6.0
    assert steps_to(120, steps, returns) == pytest.approx(34.0)
    assert steps_to(0, steps, returns) == 0.0 and steps_to(151, steps, returns) is None
