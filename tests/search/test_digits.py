"""Searches for digits of a class, at equal evaluations, judged by a verifier that none of them saw.

The model is the exact one of six hundred small digits, so that hundreds of searches take a second; trained networks and more
searches are in `benchmarks/noise_search.py`.
"""

import pytest
import torch

import retrograde as rg

N = 100
TARGETS = torch.arange(N) % 10


def judge(images, labels, ridge=0.05):
    """Return log p(class | x), [n, 10], of Gaussian classes with one covariance."""
    x = images.flatten(1).double()
    means = torch.stack([x[labels == k].mean(0) for k in range(10)])
    rest = x - means[labels]
    precision = torch.linalg.inv(rest.T @ rest / len(x) + ridge * torch.eye(x.shape[1], dtype=torch.float64))
    offset = -0.5 * ((means @ precision) * means).sum(1)
    return lambda data: torch.log_softmax(data.flatten(1).double() @ precision @ means.T + offset, 1)


@pytest.fixture(scope="module")
def images():
    return rg.data.digits8("train")


@pytest.fixture(scope="module")
def judges(images):
    """Return the verifier's classifier, another of other images, and a poor one of sixty images."""
    x, labels = images
    half = len(x) // 2
    return judge(x[:half], labels[:half]), judge(x[half:], labels[half:]), judge(x[:60], labels[:60], ridge=0.5)


@pytest.fixture(scope="module")
def den(images):
    x, labels = images
    some = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:600]
    means = x[some].reshape(-1, 1, 8, 8).float()
    return rg.oracles.GaussianMixture(rg.paths.VP(), means, 0.05, labels=labels[some].tolist())


def of_targets(classifier, found):
    return classifier(found.samples)[torch.arange(N), TARGETS].mean()


def test_searches_go_on_where_more_steps_have_ended(den, judges):
    """The score rises with evaluations for every search, 20 to 80; a single run's does not rise with its steps.

    At equal evaluations nothing beats best-of-N by much: neighbours at the distance of 0.95 are as good, near ones worse.
    Scores are means of a hundred searches, with a standard error of about 0.2.
    """
    verifier, other, _ = judges
    plan = rg.plan("ddim", den.path, nfe=10)

    def verdict(x, searches):
        return verifier(x)[torch.arange(len(x)), TARGETS[searches]]

    single, longer = (rg.search.random(den, rg.plan("ddim", den.path, nfe=nfe), verdict, N, draws=1) for nfe in (10, 80))
    assert longer.verdicts.mean() < single.verdicts.mean() + 0.5
    random = rg.search.random(den, plan, verdict, N, draws=8)
    near, far = (
        rg.search.zero_order(den, plan, verdict, N, neighbours=1, rounds=7, distance=distance) for distance in (0.3, 0.95)
    )
    paths = [rg.search.over_paths(den, plan, verdict, N, paths=1, branches=k, up=2, down=4) for k in (1, 2, 5)]
    assert all(found.ledger.nfe == pytest.approx(80, abs=2) for found in (random, near, far, paths[-1], longer))
    rising = {
        "random": [random.trace[draws - 1][1].mean() for draws in (1, 2, 4, 8)],
        "local": [far.trace[rounds][1].mean() for rounds in (0, 1, 3, 7)],
        "paths": [found.verdicts.mean() for found in paths],
    }
    for name, scores in rising.items():
        assert all(after > before + 0.4 for before, after in zip(scores, scores[1:], strict=False)), name
        assert scores[-1] > longer.verdicts.mean() + 3.0, name
    assert abs(rising["local"][-1] - rising["random"][-1]) < 0.7
    assert near.verdicts.mean() < rising["random"][-1] - 0.7
    for found in (random, far, paths[-1]):
        assert of_targets(other, found) > of_targets(other, longer) + 3.0


def test_what_a_verifier_is_fooled_by_shows_in_another_and_in_variety(den, judges):
    """A part of what a poor verifier claims is its own; of one class, the more draws the more alike is what they find."""
    verifier, other, poor = judges
    plan = rg.plan("ddim", den.path, nfe=10)

    def claimed(x, searches):
        return poor(x)[torch.arange(len(x)), TARGETS[searches]]

    def three(x, searches):
        return verifier(x)[:, 3]

    beyond = []
    for draws in (2, 16):
        found = rg.search.random(den, plan, claimed, N, draws=draws)
        met = [float((one(found.samples).argmax(1) == TARGETS).double().mean()) for one in (poor, other)]
        beyond.append(met[0] - met[1])
    assert beyond[1] > beyond[0] + 0.05
    free, chosen = (rg.search.random(den, plan, three, N, draws=draws, condition=3) for draws in (1, 16))
    apart = [float(torch.pdist(found.samples.flatten(1)).mean()) for found in (free, chosen)]
    assert apart[1] < 0.98 * apart[0]  # of other seeds 0.96 to 0.99
