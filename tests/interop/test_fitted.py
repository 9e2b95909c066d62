"""Tables that others fitted: they run as their own loop does."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, ShapeError
from retrograde.interop.schedulers import from_olss


@pytest.fixture
def path(path_called) -> rg.paths.VPDiscrete:
    return path_called("vp_discrete")


def test_olss_runs_as_its_loop_does(path, mixture):
    """x_(i+1) = wx[i] x_T + sum_j we[i][j] e_j with made-up weights, the network told the steps of the file."""
    timesteps = torch.tensor([981, 701, 341, 81], dtype=torch.int32)
    generator = torch.Generator().manual_seed(4)
    wx = torch.tensor([0.9, 0.8, 0.7, 1.1], dtype=torch.float64)
    we = torch.randn((4, 4), generator=generator, dtype=torch.float64).tril() * 0.3
    exact, told = mixture(path, "noise"), []

    def network(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        told.append(float(index[0]))
        return exact.predict(x, float(index[0] + 1) / 1000).value

    den = rg.Denoiser(network, path, "noise", (2,))
    plan = from_olss(timesteps, wx, we, path)
    start = torch.randn((3, 2), generator=generator, dtype=torch.float64)
    made = rg.sample(den, plan, x=start)
    assert told == [981.0, 701.0, 341.0, 81.0]
    x, known = start, []
    for i, step in enumerate(timesteps.tolist()):
        known.append(network(x, torch.tensor([step])))
        x = start * wx[i] + sum(known[j] * we[i, j] for j in range(i + 1))
    assert torch.allclose(made, x, rtol=0, atol=1e-10)
    assert plan.nfe == 4
    assert plan.misses == ("point mass",)


def test_a_plan_of_our_own_fit_survives_the_file_of_olss(path, mixture):
    """The baseline's table written out as the authors' file is, and read again, is the same table."""
    fitted = rg.baselines.olss(mixture(path), nfe=3, n=64, levels=60)
    steps = [round(t * 1000) - 1 for t in fitted.times]
    wx = [row.states[-1] for row in fitted.rows]
    we = torch.zeros(3, 3, dtype=torch.float64)
    for i, row in enumerate(fitted.rows):
        we[i, : i + 1] = torch.tensor(row.outputs[::-1], dtype=torch.float64)
    read = from_olss(steps, wx, we, path)
    for one, other in zip(read.rows, fitted.rows, strict=True):
        assert one.states == other.states
        assert one.outputs == other.outputs


def test_tables_that_do_not_fit_are_refused(path):
    with pytest.raises(ShapeError, match="we"):
        from_olss([900, 500], [1.0, 1.0], torch.zeros(3, 3), path)
    with pytest.raises(BadType, match="discrete"):
        from_olss([900, 500], [1.0, 1.0], torch.zeros(2, 2), rg.paths.VP())
