"""Regions with prompts of their own, on a UNet of diffusers with random weights in which every layer matters."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.errors import BadType, BadValue, ShapeError
from retrograde.run import run

pytestmark = pytest.mark.diffusers
GLOBAL, FIRST, SECOND = torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(1))
WHOLE = torch.ones(1, 8, 16)


class Told(nn.Module):
    """The UNet, told the path time and a text."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x_t: torch.Tensor, network_time: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return self.unet(x_t, 100 * network_time, encoder_hidden_states=text).sample


@pytest.fixture(scope="module")
def den() -> rg.Denoiser:
    """A denoiser of pictures [1, 8, 16] under texts of four tokens."""
    diffusers = pytest.importorskip("diffusers")
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    size = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, cross_attention_dim=12, **blocks, **size
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in unet.parameters():
            scale = 1.0 / max(1, weight[0].numel()) ** 0.5
            weight.copy_(scale * torch.randn(weight.shape, generator=generator) + (weight.ndim == 1) * 0.5)
    return rg.Denoiser(Told(unet.eval()), rg.paths.VP(), "noise", (1, 8, 16), {"text": torch.zeros(4, 12)})


def drawn(den: rg.denoisers.AbstractDenoiser, text: torch.Tensor, **options) -> torch.Tensor:
    plan = options.pop("plan", rg.plan("dpmpp_2m", den.path, nfe=4))
    return rg.sample(den, plan, n=2, seed=0, condition={"text": text[None].expand(2, -1, -1)}, **options)


def test_weight_zero_is_the_model_bit_by_bit(den):
    still = rg.guide.regions(den, [FIRST, SECOND], WHOLE.expand(2, -1, -1), [0.0, 0.0])
    assert torch.equal(drawn(still, GLOBAL), drawn(den, GLOBAL))
    # and without text there is nothing to mix
    loud = rg.guide.regions(den, [FIRST], WHOLE, [1.0])
    plan = rg.plan("ddim", den.path, nfe=2)
    assert torch.equal(rg.sample(loud, plan, n=2), rg.sample(den, plan, n=2))


def test_a_whole_region_of_weight_one_is_its_prompt_alone(den):
    whole = rg.guide.regions(den, [FIRST], WHOLE, [1.0])
    alone = drawn(den, FIRST)
    close = 1e-5 * alone.abs().max()  # random weights make large pictures
    assert (drawn(whole, GLOBAL) - alone).abs().max() < close
    assert (drawn(den, GLOBAL) - alone).abs().max() > 100 * close
    halves = torch.stack([torch.arange(16) < 8, torch.arange(16) >= 8]).float()[:, None].expand(-1, 8, -1)
    both = rg.guide.regions(den, [FIRST, FIRST], halves, [1.0, 1.0])
    assert (drawn(both, GLOBAL) - alone).abs().max() < close
    apart = rg.guide.regions(den, [FIRST, SECOND], halves, [1.0, 1.0])
    assert (drawn(apart, GLOBAL) - alone).abs().max() > 100 * close


def test_guidance_outside_leaves_the_branch_without_text(den):
    """The weights of the two branches show that only the one with text was changed."""
    x = torch.randn(2, 1, 8, 16, generator=torch.Generator().manual_seed(2))
    text = GLOBAL[None].expand(2, -1, -1)
    made = rg.guide.cfg(rg.guide.regions(den, [FIRST], WHOLE, [1.0]), 3.0)(x, 0.5, text=text)
    towards, away = den(x, 0.5, text=FIRST[None].expand(2, -1, -1)).noise, den(x, 0.5).noise
    assert torch.allclose(made.noise, away + 3.0 * (towards - away), atol=1e-4)


def test_weights_are_a_column_of_the_plan_and_can_be_learned(den):
    guided = rg.guide.regions(den, [FIRST], WHOLE, [0.0])
    assert guided.consumes >= {"regions"}
    by_level = rg.guide.regions(den, [FIRST], WHOLE, [lambda sigma: 1.0 if sigma > 1.0 else 0.0])
    x, text = torch.randn(1, 1, 8, 16, generator=torch.Generator().manual_seed(3)), GLOBAL[None]
    for t in (0.9, 0.05):
        wanted = den(x, t, text=FIRST[None] if den.path.sigma(t) > 1.0 else text).noise
        assert torch.allclose(by_level(x, t, text=text).noise, wanted, atol=1e-4)
    column = guided.predict(x, 0.5, {"text": text}, {"regions": [1.0]})
    assert torch.allclose(column.noise, den(x, 0.5, text=FIRST[None]).noise, atol=1e-4)

    weight = torch.tensor([0.3], requires_grad=True)
    (slope,) = torch.autograd.grad(guided.predict(x, 0.5, {"text": text}, {"regions": weight}).noise.square().sum(), weight)
    ends = [guided.predict(x, 0.5, {"text": text}, {"regions": [0.3 + h]}).noise.square().sum() for h in (0.05, -0.05)]
    assert float(slope) == pytest.approx(float(ends[0].detach() - ends[1].detach()) / 0.1, rel=0.02)


def test_the_gradient_of_a_column_by_checkpoints_is_that_of_the_whole_graph(den):
    """Weights of every row, through a run of two: recomputed row by row, as the authors do, or kept."""
    plan, guided = rg.plan("ddim", den.path, nfe=2), rg.guide.regions(den, [FIRST], WHOLE, [0.0])
    slopes = []
    for how in ("unroll", "checkpoint"):
        weights = torch.tensor([[0.3], [0.6]], requires_grad=True)
        knobs = [{"regions": weights[k]} if row.time is not None else {} for k, row in enumerate(plan.rows[:2])]
        rows = [dataclasses.replace(row, knobs=knob) for row, knob in zip(plan.rows, [*knobs, *[{}] * 9], strict=False)]
        x = torch.randn(1, 1, 8, 16, generator=torch.Generator().manual_seed(3))
        column = dataclasses.replace(plan, rows=tuple(rows), report=None)
        *_, last = run(column, guided, x, condition={"text": GLOBAL[None]}, gradient=how)
        slopes.append(torch.autograd.grad(last.x_t.square().sum(), weights)[0])
    assert slopes[0].abs().min() > 0.0
    assert torch.allclose(*slopes, rtol=1e-4)


def test_prompts_of_a_pipeline_are_texts():
    """Stable Diffusion's network sees the prompt as it is; the branch of the empty text is left as it is."""
    pytest.importorskip("transformers")
    file = Path(__file__).parents[2] / "examples" / "tiny_pipelines.py"
    spec = importlib.util.spec_from_file_location("tiny_pipelines", file)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    pipe = tiny.stable(texts=True)
    den = rg.interop.diffusers.denoiser(pipe)
    mask = torch.ones(1, *den.shape[1:])
    whole = rg.guide.regions(den, ["a cat"], mask, [1.0], places=rg.sites.find(pipe.unet))
    plan = rg.plan("ddim", den, nfe=2)
    texts = {"moon": ["a blue moon"], "cat": ["a cat"]}
    made, wanted, plain = (
        rg.sample(rg.guide.cfg(one, 4.0), plan, n=1, seed=0, condition={"prompt": texts[text]})
        for one, text in ((whole, "moon"), (den, "cat"), (den, "moon"))
    )
    assert (made - wanted).abs().max() < 1e-3 * (plain - wanted).abs().max()


def test_discs_lie_where_they_are_said_to():
    first, second = rg.guide.discs([(0.5, 0.25), (0.5, 0.75)], 200, 400)
    assert torch.equal(first, second.flip(1))
    assert first.sum() == pytest.approx(3.14159 * (0.2 * 200) ** 2, rel=0.01)
    assert first[100, 100] == 1.0
    assert first[100, 141] == 0.0


def test_mistakes_are_explained(den, mixture):
    with pytest.raises(BadValue, match="as many of each"):
        rg.guide.regions(den, [FIRST, SECOND], WHOLE)
    with pytest.raises(ShapeError, match="regions, height, width"):
        rg.guide.regions(den, [FIRST], WHOLE[0])
    with pytest.raises(BadType, match="cross"):
        rg.guide.regions(rg.load("digits8-flow"), [3], WHOLE, text="label")
    odd = rg.guide.regions(den, [FIRST], torch.ones(1, 9, 5), [1.0])
    with pytest.raises(ShapeError, match="proportions"):
        odd(torch.zeros(1, 1, 8, 16), 0.5, text=GLOBAL[None])
