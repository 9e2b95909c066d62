"""Faster Diffusion: decoders alone, one by one or together, against what costs as much."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch

import retrograde as rg
from retrograde import sites
from retrograde.denoisers.oracles import GaussianMixture
from retrograde.errors import BadValue

accelerate = rg.accelerate
KEYS = [0, 1, 2, 3, 5, 10, 15, 25, 35]


def rms(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).square().mean().sqrt())


def test_a_row_that_reuses_computes_the_decoder_alone_and_does_not_look_at_its_state(den):
    cached, x = accelerate.encoder_cache(den), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    condition = rg.denoisers.prepare_condition(den, [0, 1], 2)
    with sites.counted(den.network) as book:
        whole = cached.predict(x, 0.5, condition)
        full = book.total
        again = cached.predict(x, 0.5, condition, {"reuse": True, "carried": whole.carried})
    assert torch.equal(again.value, whole.value)
    ladder = sites.places_of(den).ladder
    encoder = sum(book.macs[site] for site in ladder.encoder)
    assert 0.2 * full < encoder < full
    assert book.total == 2 * full - encoder
    assert book.saved == encoder
    later = [cached.predict(at, 0.4, condition, {"reuse": True, "carried": whole.carried}).value for at in (x, 5 * x + 1)]
    assert torch.equal(*later)
    assert not torch.equal(later[0], whole.value)  # the time of the row is its own


@pytest.mark.parametrize("recipe", ["ddim", "dpmpp_2m"])
def test_decoders_of_several_rows_in_one_call_are_those_one_by_one(recipe, den):
    cached, plan = accelerate.encoder_cache(den), accelerate.reuse(rg.plan(recipe, den.path, nfe=9), [0, 1, 4])
    ahead = accelerate.decode_ahead(plan, den)
    for guided in (lambda d: d, lambda d: rg.guide.cfg(d, 2.0)):
        with sites.timed(den.network) as book:
            together = rg.sample(guided(cached), ahead, 2, condition=[0, 2])
        assert book.calls[sites.ROOT] == 3
        one_by_one = rg.sample(guided(cached), plan, 2, condition=[0, 2])
        assert torch.allclose(together, one_by_one, atol=1e-5)
        assert not torch.allclose(together, rg.sample(guided(den), plan_without(plan), 2, condition=[0, 2]), atol=1e-3)
    one, other = sites.cost(cached, ahead, 2), sites.cost(cached, plan, 2)
    assert one.macs == other.macs
    assert one.spared == other.spared


def plan_without(plan: rg.Plan) -> rg.Plan:
    return accelerate.every(plan, 1)


def test_all_steps_key_is_the_denoiser_bit_by_bit(den):
    plan = rg.plan("ddim", den.path, nfe=6)
    cached, every = accelerate.encoder_cache(den), accelerate.every(plan, 1)
    assert torch.equal(rg.sample(cached, every, 2), rg.sample(den, plan, 2))
    assert accelerate.decode_ahead(every, den) == plan


def test_a_unet_of_diffusers_in_a_module_of_ours():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    ).eval()

    class Told(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, x_t: torch.Tensor, network_time: torch.Tensor) -> torch.Tensor:
            return self.unet(x_t, 1000 * network_time).sample

    model = rg.Denoiser(Told(), rg.paths.Flow(), "velocity", (1, 8, 8))
    plan = accelerate.every(rg.plan("ddim", model.path, nfe=6), 3)
    cached = accelerate.encoder_cache(model)
    one_by_one = rg.sample(cached, plan, 2)
    assert torch.allclose(rg.sample(cached, accelerate.decode_ahead(plan, model), 2), one_by_one, atol=1e-5)
    full, spared = sites.cost(model, plan_without(plan), 2), sites.cost(cached, plan, 2)
    assert spared.macs + spared.spared == pytest.approx(full.macs, rel=1e-12)
    assert spared.macs < 0.8 * full.macs


@dataclasses.dataclass(frozen=True)
class WholePrediction(sites.Policy):
    """The control: the last output of the whole network."""

    title: ClassVar[str] = "whole"

    def taps(self, visit: sites.Visit) -> Mapping[str, sites.Tap]:
        def tap(call):
            made = visit.newest("all") if visit.asked else call.compute()
            visit.keep("all", made)
            return made

        return {sites.ROOT: tap}


def test_reused_encoders_err_less_than_reused_predictions_at_their_share_of_the_cost(digits):
    plan = rg.plan("ddim", digits.path, nfe=50)
    keyed, cached = accelerate.every(plan, 4), accelerate.encoder_cache(digits)
    full = rg.sample(digits, plan, 4, condition=3)
    error = rms(rg.sample(cached, keyed, 4, condition=3), full)
    assert error < rms(rg.sample(sites.within(digits, WholePrediction()), keyed, 4, condition=3), full)
    with sites.counted(digits.network) as book:
        rg.sample(digits, rg.plan("ddim", digits.path, nfe=1), 1, condition=3)
    encoder = sum(book.macs[site] for site in sites.places_of(digits).ladder.encoder)
    spent = sites.cost(cached, keyed, 1, condition=3)
    assert spent.macs == 50 * book.total - 37 * encoder


def test_features_of_the_encoder_change_less_than_those_of_the_decoder(digits):
    """Mean relative change from step to step, of the skip connections and of what takes them."""
    ladder = sites.places_of(digits).ladder
    seen: dict[str, list[torch.Tensor]] = {site: [] for site in (*ladder.encoder, *ladder.decoder)}

    def look(call):
        made = call.compute()
        seen[call.site].append(made)
        return made

    with sites.opened(digits.network, dict.fromkeys(seen, look)):
        rg.sample(digits, rg.plan("ddim", digits.path, nfe=25), 2, condition=3)
    change = {
        site: sum(float((b - a).norm() / a.norm()) for a, b in zip(made, made[1:], strict=False))
        for site, made in seen.items()
    }
    mean = [sum(change[s] for s in part) / len(part) for part in (ladder.encoder, ladder.decoder)]
    assert mean[0] < mean[1]


@pytest.mark.parametrize("path", [rg.paths.VP(), rg.paths.EDM(), rg.paths.Flow()], ids=lambda p: p.name)
def test_noise_that_is_injected_is_the_first_state_in_the_last_half(path):
    model, plan = GaussianMixture(path, torch.full((1, 4), 0.5), 0.3), rg.plan("ddim", path, nfe=6)
    injected = accelerate.inject(plan, 0.01)
    assert accelerate.inject(plan, 0.0) is plan
    x = path.s(plan.start) * torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states = [state.x_t for state in rg.steps(injected, model, x=x)]
    asked = [k for k, row in enumerate(plan.rows) if row.time is not None]
    x_t = x
    for k, row in enumerate(plan.rows):
        if row.time is not None:
            told = model.predict(x_t, row.time, rg.denoisers.prepare_condition(model, None, 2))
            x_t = row.states[0] * x_t + row.outputs[0] * told.read(plan.basis)
        if k + 1 in asked[3:]:
            t, start = row.next_time, plan.start
            size = ((path.a(t) ** 2 + path.s(t) ** 2) / (path.a(start) ** 2 + path.s(start) ** 2)) ** 0.5
            x_t = x_t + 0.01 * size * x
        assert torch.allclose(states[k], x_t, rtol=1e-9, atol=1e-9)
    assert torch.equal(rg.sample(model, accelerate.inject(plan, 0.01, 0.0), x=x), rg.sample(model, plan, x=x))
    with pytest.raises(BadValue, match="cut"):
        accelerate.inject(rg.plan("dpmpp_2m", path, nfe=6)[2:])
