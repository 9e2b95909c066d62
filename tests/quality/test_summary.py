"""The one-call report."""

import pytest
import torch

from retrograde import quality, systems


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_report_is_the_figures_one_by_one():
    x, y = normal(120, 1, 4, 4), 1.2 * normal(150, 1, 4, 4, seed=1)
    figures = quality.report(x, y, seed=5)
    assert figures == {
        "frechet": quality.frechet_distance(x, y),
        "kernel": quality.kernel_distance(x, y, seed=5),
        "sliced_wasserstein": quality.sliced_wasserstein(x, y, seed=5),
        "max_sliced_wasserstein": quality.sliced_wasserstein(x, y, over="max", seed=5),
        "energy": quality.energy_distance(x, y),
        "precision": quality.precision_recall(x, y)[0],
        "recall": quality.precision_recall(x, y)[1],
        "density": quality.density_coverage(x, y)[0],
        "coverage": quality.density_coverage(x, y)[1],
        "variance_ratio": quality.variance_ratio(x, y),
    }
    assert all(f"n={figure.n_samples} vs {figure.n_reference}" in str(figure) for figure in figures.values())


def test_report_asks_features_once():
    x, y = normal(120, 8), normal(120, 8, seed=1)
    asked = []

    def first_half(items):
        asked.append(len(items))
        return items[:, :4]

    assert quality.report(x, y, features=first_half) == quality.report(x[:, :4], y[:, :4])
    assert sum(asked) == 240


@pytest.mark.parametrize("n", [6, 19, 25])
def test_report_of_small_sets_uses_fewer_subsets(n):
    figures = quality.report(normal(n, 2), normal(n, 2, seed=1))
    assert figures["kernel"].n_samples >= n - 1


def test_report_ranks_a_better_sampler_first():
    reference = normal(400, 3)
    near = quality.report(normal(400, 3, seed=1), reference)
    far = quality.report(1.5 * normal(400, 3, seed=1) + 0.5, reference)
    for name in ("frechet", "kernel", "sliced_wasserstein", "max_sliced_wasserstein", "energy"):
        assert near[name].value < far[name].value / 3
    assert near["precision"].value > far["precision"].value


def test_papers_are_registered_and_their_calls_run():
    import retrograde as rg

    mine = [system for system in systems.all() if "rg.quality." in system.call]
    assert len(mine) == 8
    for system in mine:
        eval(system.call, {"rg": rg, "samples": normal(30, 2), "reference": normal(30, 2, seed=1)})
