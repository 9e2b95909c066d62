"""Self-guidance of a series: the example's losses against the law of what is to come."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import retrograde as rg


@pytest.fixture(scope="module")
def series() -> ModuleType:
    file = Path(__file__).parents[2] / "examples" / "forecast_series.py"
    spec = importlib.util.spec_from_file_location("forecast_series", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_scale_it_is_the_model_bit_by_bit(series):
    C, plan = series.process(), rg.plan("ddim", series.PATH, nfe=5)
    y = torch.linspace(-1, 1, series.SEEN, dtype=torch.float64)
    free = rg.sample(rg.oracles.Gaussian(series.PATH, torch.zeros(24), C), plan, n=4, dtype=torch.float64)
    assert torch.equal(series.forecast("quantile", 0.0, plan, y, 4, C), free[:, series.SEEN :])
    assert not torch.equal(series.forecast("quantile", 2.0, plan, y, 4, C), free[:, series.SEEN :])


def test_the_process_is_the_recurrence(series):
    """Yule-Walker: what is left of x_k after 1.4 x_(k-1) - 0.7 x_(k-2) has nothing to do with the past."""
    C = series.process()
    left = C[2:] - 1.4 * C[1:-1] + 0.7 * C[:-2]
    for k in range(2, series.LENGTH):
        assert left[k - 2, :k].abs().max() < 1e-9


def test_a_loss_that_knows_what_is_open_forecasts_and_others_are_biased(series):
    """The mean within 15 % of a standard deviation; without that knowledge it is off by more than twice as much.

    The published losses do not come within 15 % at any scale (the example has the figures), nor is the spread of "quantile"
    nearer to the exact one than that of "square", as their entry expects: both take D for the data, whatever the level, and
    on a Gaussian what is missing is known, the variance that D leaves open.

    The spread of 80 samples is itself known to about 8 %.
    """
    plan = rg.plan("ddim", series.PATH, nfe=50)
    scales = {"exact": 1.0, "square": 4.0, "quantile": 4.0}
    found = {loss: series.judged(loss, scale, plan, 80, 3) for loss, scale in scales.items()}
    assert found["exact"][0] < 0.15
    assert found["exact"][1] < 1.16
    assert min(found["square"][0], found["quantile"][0]) > 2.0 * found["exact"][0]


def test_each_sample_follows_its_own_quantile(series):
    """Held to quantiles the samples spread more than held to squares: the first of them lie below the last."""
    C, plan = series.process(), rg.plan("ddim", series.PATH, nfe=30)
    y = torch.sin(torch.arange(series.SEEN, dtype=torch.float64))
    den = rg.oracles.Gaussian(series.PATH, torch.zeros(24), C)
    seen = {
        loss: rg.sample(rg.guide.loss(den, series.held(loss, y, 60, C), 4.0), plan, n=60, dtype=torch.float64)[
            :, : series.SEEN
        ]
        for loss in ("square", "quantile")
    }
    assert seen["quantile"].std(0).mean() > 1.2 * seen["square"].std(0).mean()
    off = (seen["quantile"] - y).mean(1)
    assert off[:20].mean() < off[-20:].mean() - 0.1
    alike = (seen["square"] - y).mean(1)
    assert abs(float(alike[:20].mean() - alike[-20:].mean())) < 0.1
