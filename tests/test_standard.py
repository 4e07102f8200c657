"""The standard measures of disentanglement, on codes whose answers are known."""

import numpy as np
import pytest
from scipy.linalg import hadamard

from denoised_mdp.analysis.factorization.standard import (
    BINS,
    disentanglement,
    mean_correlation,
    mutual_information_gap,
    predictability_gap,
    standard_measures,
)
from denoised_mdp.analysis.factorization.targets import Classes, Numbers

EPISODES, ROWS = 8, 200
EPISODE = np.repeat(np.arange(EPISODES), ROWS)


@pytest.fixture(scope="module")
def factors() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, size=(EPISODES * ROWS, 4))


def targets_of(factors: np.ndarray) -> list:
    columns = (factors - factors.mean(0)) / factors.std(0)
    return [Numbers(str(i), "neither", columns[:, i : i + 1], np.array([0])) for i in range(factors.shape[1])]


def test_a_dimension_for_each_factor_scores_one_everywhere(factors):
    code = np.concatenate([factors[:, [2, 0, 3, 1]] ** 3, np.ones((len(factors), 1))], axis=1)  # one is constant
    found = standard_measures(code, targets_of(factors), EPISODE, 2)
    assert found["mig"] > 0.6  # cubed, a dimension of 20 bins tells 20 bins of the factor only in part
    assert found["sap"] > 0.8 and found["mcc"] > 0.9  # the correlation of u and u cubed is 0.917
    assert min(found["dci_disentanglement"], found["dci_completeness"], found["dci_informativeness"]) > 0.85
    exact = standard_measures(factors, targets_of(factors), EPISODE, 2)
    assert exact["mig"] > 0.9 and exact["sap"] > 0.99 and exact["mcc"] > 0.999


def test_a_rotation_is_punished_by_all_but_the_informativeness(factors):
    found = standard_measures(factors @ hadamard(4) / 2, targets_of(factors), EPISODE, 2)  # each dimension of all alike
    assert found["mig"] < 0.05 and found["sap"] < 0.05 and found["mcc"] == pytest.approx(0.5, abs=0.05)
    assert found["dci_disentanglement"] < 0.1 and found["dci_completeness"] < 0.1
    assert found["dci_informativeness"] > 0.6, "nothing is lost in a rotation"


def test_noise_scores_nothing(factors):
    noise = np.random.default_rng(1).normal(size=factors.shape)
    found = standard_measures(noise, targets_of(factors), EPISODE, 2)
    assert found["mig"] < 0.02 and found["sap"] < 0.02 and found["dci_informativeness"] < 0.02 and found["mcc"] < 0.1


def test_classes_count_like_numbers(factors):
    labels = (np.digitize(factors[:, 0], [-0.3, 0.3])).astype(np.int64)
    labels[:10] = -1  # unknown
    targets = [Classes("0", "neither", labels), *targets_of(factors[:, 1:2])]
    found = standard_measures(factors[:, :2], targets, EPISODE, 2)
    assert found["mig"] > 0.8 and found["sap"] > 0.8 and found["dci_informativeness"] > 0.9


def test_the_gap_is_that_of_the_two_best_dimensions():
    labels = np.tile(np.arange(BINS), 50)
    code = np.stack([labels, labels // 10, np.zeros_like(labels)], axis=1).astype(float)
    entropy, half = np.log(BINS), np.log(2)
    assert mutual_information_gap(code, [labels]) == pytest.approx((entropy - half) / entropy)
    column = (labels - labels.mean()) / labels.std()
    second = np.corrcoef(code[:, 1], column)[0, 1] ** 2
    assert predictability_gap(code[:, :2], [column], []) == pytest.approx(1 - second)


def test_dci_is_its_formula():
    importance = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # two dimensions of one factor each, one of both
    found = disentanglement(importance)
    assert found["dci_disentanglement"] == pytest.approx(0.25 + 0.25)
    assert found["dci_completeness"] == pytest.approx(1 - np.log(2) / np.log(3))
    assert disentanglement(np.eye(3)) == {"dci_disentanglement": 1.0, "dci_completeness": 1.0}


def test_the_pairing_uses_each_dimension_once(factors):
    columns = [factors[:, 0], factors[:, 0] + 0.3 * factors[:, 1]]
    code = np.stack([factors[:, 0], factors[:, 2]], axis=1)
    apart = abs(np.corrcoef(columns[1], code[:, 0])[0, 1])
    assert mean_correlation(code, columns) < (1 + apart) / 2


def test_what_is_constant_is_no_factor(factors):
    constant = Classes("constant", "neither", np.zeros(len(factors), np.int64))
    targets = [constant, *targets_of(factors[:, :1])]
    assert standard_measures(factors, targets, EPISODE, 2)["mig"] > 0.8
    assert standard_measures(factors, [constant], EPISODE, 2) == {}
    assert standard_measures(np.ones_like(factors), targets_of(factors), EPISODE, 2) == {}
