"""Types, devices and waiting: complaints 25 to 28 of docs/complaints.md."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.denoisers import Prediction
from retrograde.denoisers.denoiser import NOTHING, AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.interop import schedulers

VP = rg.paths.VP()
DISCRETE = schedulers.path_of({"_class_name": "DDIMScheduler"})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_of_half_precision_is_told_whole_steps(dtype):
    """bfloat16 has no 750, 751, 753: the step is told in float32 whatever the network computes in."""
    told: list[torch.Tensor] = []

    def network(x, t):
        assert x.dtype == dtype
        told.append(t)
        return 0.1 * x

    den = rg.Denoiser(network, DISCRETE, "noise", (2,), dtype=dtype)
    steps = [999, 753, 751, 750, 749, 257, 3]
    rg.sample(den, rg.plan("dpmpp_2m", den, grid=[(step + 1) / 1000 for step in steps]))
    assert [float(t[0]) for t in told] == steps
    assert {t.dtype for t in told} == {torch.float32}


@pytest.mark.diffusers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_scheduler_in_a_pipeline_of_half_precision_keeps_its_steps(dtype):
    from retrograde.interop.diffusers import PlanScheduler

    steps = [999, 753, 751, 750, 749, 257, 3]
    plan = rg.plan("ddim", DISCRETE, grid=[(step + 1) / 1000 for step in steps])
    scheduler = PlanScheduler(plan)
    assert scheduler.timesteps.tolist() == steps
    assert not scheduler.timesteps.is_floating_point()
    x = torch.ones(1, 2, dtype=dtype)
    noised = scheduler.add_noise(x, torch.zeros_like(x), torch.tensor([750]))
    assert float(noised[0, 0]) == float(torch.tensor(DISCRETE.a(0.751)).to(dtype))


def test_levels_are_rounded_to_the_nearest_trained_step_and_never_cut():
    den = rg.Denoiser(lambda x, t: x, DISCRETE, "noise", (2,))
    for step in (1, 250, 750, 999):
        for off in (-0.49, 0.0, 0.49):
            assert den.network_time((step + 1 + off) / 1000) == step
            assert den.snap((step + 1 + off) / 1000) == (step + 1) / 1000


def test_the_type_of_a_run_leaves_the_plan_and_its_schedule_alone():
    """Going to half precision and back loses nothing: coefficients are numbers of float64, the schedule is the path's."""
    plan = rg.plan("unipc_3", DISCRETE, nfe=8)
    den = rg.oracles.Gaussian(DISCRETE, torch.tensor([0.5, -0.5]), torch.tensor([0.2, 0.1]))
    before = rg.sample(den, plan, n=3, dtype=torch.float64)
    for dtype in (torch.float16, torch.bfloat16):
        for _ in range(2):
            rough = rg.sample(den, plan, n=3, dtype=dtype)
            assert rough.dtype == dtype
            assert (rough - before).abs().max() < 0.1
    assert torch.equal(rg.sample(den, plan, n=3, dtype=torch.float64), before)
    assert all(isinstance(c, float) for row in plan.rows for c in (*row.states, *row.outputs, *row.noises))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_schedule_that_lost_its_digits_is_refused_with_the_reason(dtype):
    product = torch.tensor(DISCRETE.alphas_cumprod)
    assert rg.paths.from_alphas_cumprod(product).alphas_cumprod == pytest.approx(DISCRETE.alphas_cumprod, rel=1e-6)
    with pytest.raises(BadValue, match=r"float(16|32)[\s\S]*before the pipeline is cast"):
        rg.paths.from_alphas_cumprod(product.to(dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class Elsewhere(AbstractDenoiser):
    """Answers on the device of the state, and asks no tensor for a number."""

    path: rg.paths.Path
    predicts: str = "noise"
    shape: tuple[int, ...] = (2,)
    conditions: dict = dataclasses.field(default_factory=dict)
    consumes: frozenset[str] = frozenset()
    name: str = "elsewhere"

    def network_time(self, t):
        return t

    def snap(self, t):
        return t

    def predict(self, x_t, t, condition=NOTHING, knobs=NOTHING, network_time=None):
        assert x_t.device.type == "meta"
        return Prediction(x_t, t, self.path, torch.tanh(x_t), "noise", evaluations={self.name: 1})


def rows_elsewhere(plan: rg.Plan, den: AbstractDenoiser) -> int:
    """Run all rows on the device without values: to read a number off a tensor or to mix devices is an error there."""
    loop = rg.steps(plan, den, n=3, device="meta")
    return sum(1 for _ in zip(range(len(plan)), loop, strict=False))


@pytest.mark.parametrize("name", rg.recipes.names())
def test_no_row_waits_for_the_device_or_mixes_devices(name):
    plan = rg.plan(name, VP, nfe=9)
    assert rows_elsewhere(plan, Elsewhere(VP)) == len(plan)
    spread = [
        dataclasses.replace(row, outputs=tuple(torch.full((2,), c, dtype=torch.float64) for c in row.outputs))
        for row in plan.rows
    ]
    assert rows_elsewhere(dataclasses.replace(plan, rows=tuple(spread)), Elsewhere(VP)) == len(plan)


def test_a_network_a_guide_and_conditions_go_where_the_state_is():
    def network(x, t, label):
        assert {x.device.type, t.device.type, label.device.type} == {"meta"}
        return x * label[:, None]

    den = rg.guide.cfg(rg.Denoiser(network, DISCRETE, "noise", (2,), conditions={"label": 10}), 3.0)
    plan = rg.plan("unipc_3", DISCRETE, nfe=5)
    loop = rg.steps(plan, den, n=3, device="meta", condition=[1, 2, 3])
    assert sum(1 for _ in zip(range(5), loop, strict=False)) == 5


def test_the_device_without_values_sees_a_row_that_waits():
    den = rg.Denoiser(lambda x, t: x * float(x.mean()), VP, "noise", (2,))
    with pytest.raises(RuntimeError, match="meta"):
        rows_elsewhere(rg.plan("ddim", VP, nfe=3), den)


@pytest.mark.diffusers
def test_a_step_in_a_pipeline_does_not_wait_either():
    from retrograde.interop.diffusers import PlanScheduler

    plan = rg.plan("unipc_3", DISCRETE, nfe=5)
    scheduler = PlanScheduler(plan)
    scheduler.set_timesteps(5)
    x = torch.ones(1, 2, device="meta")
    for step in scheduler.timesteps[:-1]:  # after the last row one look at the whole is due
        x = scheduler.step(x, step, x).prev_sample
    assert x.device.type == "meta"
