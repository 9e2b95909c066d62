"""Where time goes: sums that must agree, counts with formulas of their own, and lengths read off the configuration."""

import math
import time

import pytest
import torch

import retrograde as rg
from retrograde import sites
from retrograde.errors import BadValue


class Told(torch.nn.Module):
    """A transformer of diffusers on pictures of any size, told the path time."""

    def __init__(self, size: int, blocks: int = 2) -> None:
        super().__init__()
        from diffusers import DiTTransformer2DModel

        torch.manual_seed(0)
        more = {"in_channels": 1, "out_channels": 1, "sample_size": size, "patch_size": 2, "norm_num_groups": 1}
        self.transformer = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=16, num_layers=blocks, **more)

    def forward(self, x_t: torch.Tensor, network_time: torch.Tensor) -> torch.Tensor:
        labels = torch.zeros(len(x_t), dtype=torch.long)
        return self.transformer(x_t, timestep=1000 * network_time, class_labels=labels).sample


def transformer(size: int) -> rg.Denoiser:
    pytest.importorskip("diffusers")
    return rg.Denoiser(Told(size).eval(), rg.paths.Flow(), "velocity", (1, size, size))


@pytest.fixture(scope="module")
def wide() -> rg.Denoiser:
    """A UNet whose operators are large against what is between them."""
    torch.manual_seed(0)
    net = rg.nets.UNet((1, 32, 32), channels=(64, 64), attention=(1,), patch=1, width=64, classes=3).eval()
    return rg.Denoiser(net, rg.paths.VP(), "noise", (1, 32, 32), {"label": 3})


def test_operators_are_the_run_but_for_little(wide):
    plan = rg.plan("ddim", wide.path, nfe=2)
    rg.sample(wide, plan, 1)
    measured = rg.sites.profile(wide, plan, 24, clock=time.process_time)
    operators = sum(one.seconds for one in measured.operators.values())
    assert 0.9 * measured.seconds < operators <= measured.seconds
    assert measured.between == pytest.approx(measured.seconds - operators)
    assert sum(step.seconds for step in measured.steps) == pytest.approx(measured.seconds)
    assert [step.time for step in measured.steps] == [row.time for row in plan.bind(wide).rows]


def test_it_counts_what_the_books_count_and_what_formulas_say(wide):
    plan = rg.plan("ddim", wide.path, nfe=2)
    measured = rg.sites.profile(wide, plan, 2)
    assert sum(one.macs for one in measured.operators.values()) == 2 * sites.cost(wide, plan, 2).macs
    assert sum(step.macs for step in measured.steps) == 2 * sites.cost(wide, plan, 2).macs

    net = torch.nn.Conv2d(3, 3, 5, padding=2)
    alone = rg.Denoiser(lambda x, t: net(x), rg.paths.VP(), "noise", (3, 16, 16))
    one = rg.sites.profile(alone, rg.plan("ddim", alone.path, nfe=1), 4).operators["convolution"]
    assert one.calls == 1
    assert one.macs == 4 * 16 * 16 * 3 * 3 * 25
    assert one.bytes == 4 * (2 * 4 * 3 * 16 * 16 + 3 * 3 * 25 + 3)
    assert one.intensity == 2 * one.macs / one.bytes


def work(size: int) -> dict[str, int]:
    model = transformer(size)
    measured = rg.sites.profile(model, rg.plan("ddim", model.path, nfe=1))
    return {kind: one.macs for kind, one in measured.operators.items()}


def test_the_work_of_attention_grows_with_the_fourth_power_of_the_side():
    """Attention as L^4, what is per position (linear layers, convolutions) as L^2: the published scaling."""
    small, large = work(16), work(32)
    slope = {kind: math.log2(large[kind] / small[kind]) for kind in ("attention", "linear", "convolution")}
    assert slope["attention"] == pytest.approx(4.0, abs=0.01)
    assert slope["linear"] == pytest.approx(2.0, abs=0.5)
    assert slope["convolution"] == pytest.approx(2.0, abs=0.01)
    assert large["attention"] / sum(large.values()) > small["attention"] / sum(small.values())


def test_lengths_of_sequences_are_those_of_the_configuration(wide):
    model = transformer(16)
    measured = rg.sites.profile(model, rg.plan("ddim", model.path, nfe=3), 2)
    assert measured.lengths == {(8 * 8, 8 * 8): 3 * 2}
    measured = rg.sites.profile(wide, rg.plan("ddim", wide.path, nfe=3))
    assert measured.lengths == {(16 * 16, 16 * 16): 3 * len(sites.find(wide.network).attention)}


def test_fused_attention_or_not_the_samples_are_the_same():
    model = transformer(16)
    plan, seen = rg.plan("ddim", model.path, nfe=2), []
    for fused in (True, False):
        watched: list[torch.Tensor] = []

        class Watch:
            consumes = frozenset()

            def rewrite(self, rows, state):
                return rows

            def correct(self, state, watched=watched):
                watched.append(state.x_t)
                return state.x_t

        measured = rg.sites.profile(model, plan, 2, fused=fused, controllers=[Watch()])
        seen.append((watched[-1], measured))
    assert torch.allclose(seen[0][0], seen[1][0], atol=1e-5)
    assert seen[0][1].lengths == seen[1][1].lengths
    assert seen[0][1].operators["attention"].macs == seen[1][1].operators["attention"].macs
    assert seen[0][1].operators["attention"].calls < seen[1][1].operators["attention"].calls


@pytest.mark.slow  # seconds: next to another program they measure that program
def test_seconds_of_plans_follow_from_those_of_an_evaluation(den):
    """Ten plans of different recipes and budgets: the prediction explains more than 95% of the variance."""
    clock, n = time.process_time, 8
    recipes = [("ddim", 2), ("heun", 7), ("dpmpp_2m", 9), ("unipc_3", 4), ("ddim", 12), ("heun", 11), ("deis_tab2", 5)]
    plans = [rg.plan(name, den.path, nfe=nfe) for name, nfe in [*recipes, ("ddim", 7), ("dpmpp_2m", 3), ("ddim", 14)]]
    unit = rg.sites.profile(den, plans[0], n, clock=clock).evaluation

    def seconds(plan: rg.Plan) -> float:
        began = clock()
        rg.sample(den, plan, n)
        return clock() - began

    predicted = torch.tensor([unit * plan.nfe for plan in plans])
    measured = torch.full((len(plans),), math.inf)
    for _ in range(6):  # other work slows now this plan and now that one: the best of each
        measured = torch.minimum(measured, torch.tensor([seconds(plan) for plan in plans]))
        explained = float(torch.corrcoef(torch.stack([predicted, measured]))[0, 1] ** 2)
        if explained > 0.95:
            break
    assert explained > 0.95


def test_kinds_and_mistakes(wide):
    kinds = {"aten::convolution": "convolution", "aten::addmm": "linear", "aten::bmm": "attention", "aten::mul": "other"}
    kinds |= {"aten::native_group_norm": "norm", "aten::silu": "activation", "aten::cat": "moving"}
    assert {name: rg.sites.kind_of(name) for name in kinds} == kinds
    with pytest.raises(BadValue, match="n=0"):
        rg.sites.profile(wide, rg.plan("ddim", wide.path, nfe=1), 0)
