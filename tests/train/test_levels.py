"""The laws of noise levels: distribution, range, stratification."""

import pytest
import torch
from scipy import stats

from retrograde import paths
from retrograde.errors import BadValue, UnknownName
from retrograde.train import LAWS, LogitNormal, LogNormalSigma, Uniform, level_law, standard_law

PATHS = {"vp": paths.VP(), "edm": paths.EDM(), "flow": paths.Flow()}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", PATHS)
def test_times_stay_in_the_range_of_the_path(name: str, law: str) -> None:
    path = PATHS[name]
    t = LAWS[law]().sample(path, 1000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.float64
    assert t.amin() >= path.t_min
    assert t.amax() <= path.t_max


def single_draws(law, path: paths.Path, n: int = 2000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.cat([law.sample(path, 2, generator)[:1] for _ in range(n)])


def test_every_entry_follows_the_law() -> None:
    vp, edm = paths.VP(), paths.EDM()
    uniform = single_draws(Uniform(), vp)
    assert stats.kstest(uniform, stats.uniform(vp.t_min, vp.t_max - vp.t_min).cdf).pvalue > 0.01
    log_sigma = single_draws(LogNormalSigma(-1.2, 1.2), edm).log()
    assert stats.kstest(log_sigma, stats.norm(-1.2, 1.2).cdf).pvalue > 0.01
    flow = paths.Flow()
    share = (single_draws(LogitNormal(0.5, 0.8), flow) - flow.t_min) / (flow.t_max - flow.t_min)
    assert stats.kstest(torch.logit(share), stats.norm(0.5, 0.8).cdf).pvalue > 0.01


def test_a_batch_holds_one_level_in_each_stratum() -> None:
    path = paths.Flow(t_min=0.0, t_max=1.0)
    t = Uniform().sample(path, 50, torch.Generator().manual_seed(3))
    assert sorted((t * 50).floor().int().tolist()) == list(range(50))
    assert not torch.equal(t, t.sort().values)


def test_configuration_and_its_errors() -> None:
    assert level_law({"law": "lognormal_sigma", "mean": -0.5, "std": 1.3}) == LogNormalSigma(-0.5, 1.3)
    assert level_law({}) == Uniform()
    with pytest.raises(UnknownName, match="did you mean 'uniform'"):
        level_law({"law": "unifrom"})
    with pytest.raises(BadValue, match="mean, std"):
        level_law({"law": "logit_normal", "scale": 2})


def test_usual_laws() -> None:
    assert standard_law("edm") == LogNormalSigma(-1.2, 1.2)
    assert standard_law("velocity") == LogitNormal(0.0, 1.0)
    assert standard_law("noise") == Uniform()
