"""What a user calls: arguments in any order, starts, batches, and what happens to the rest when one item fails."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, BadValue, RetrogradeError, ShapeError
from retrograde.run import NonFinite

PATH = rg.paths.EDM()
DATA = rg.oracles.GaussianMixture(PATH, torch.tensor([[-1.0, 0.5], [1.0, -0.5]]), 0.01)
PLAN = rg.plan("dpmpp_2m", PATH, nfe=6)


def test_plan_and_denoiser_may_come_in_either_order():
    assert torch.equal(rg.sample(DATA, PLAN, n=3), rg.sample(PLAN, DATA, n=3))
    assert torch.equal(rg.record(PLAN, DATA, n=3).samples, rg.sample(DATA, PLAN, n=3))
    with pytest.raises(BadType, match=r"retrograde.Denoiser\("):
        rg.sample(torch.nn.Identity(), PLAN)


def test_a_recording_holds_the_whole_run():
    recording = rg.record(DATA, PLAN, n=3, seed=2)
    assert len(recording.trajectory) == len(PLAN) + 1
    assert len(recording.means) == len(PLAN)
    assert torch.equal(recording.trajectory[-1], recording.samples)
    assert recording.trajectory[0].std() > 20
    assert recording.ledger.nfe == 6
    assert torch.equal(rg.sample(DATA, recording.plan, n=3, seed=2), recording.samples)


def test_a_run_starts_from_a_signal_at_the_plans_level():
    image = torch.tensor([[1.0, -0.5]] * 64)
    low = PLAN.from_noise(0.5)
    near = rg.sample(DATA, low, signal=image, seed=1)
    assert (near - image).norm(dim=1).max() < 0.5, "little noise leaves the signal's mode"
    free = rg.sample(DATA, PLAN, n=64, seed=1)
    assert (free - image).norm(dim=1).max() > 1.5
    x = image + 0.0
    assert torch.equal(rg.sample(DATA, low, x=x), rg.sample(DATA, low, x=x, seed=9)), "a given state needs no noise"


def test_bad_starts_say_what_is_allowed():
    with pytest.raises(ShapeError, match=r"\[n, 2\]"):
        rg.sample(DATA, PLAN, x=torch.zeros(4, 3))
    with pytest.raises(BadValue, match="n >= 1"):
        rg.sample(DATA, PLAN, n=0)


def test_one_bad_item_does_not_take_the_others_with_it():
    def network(x, t, label):
        return torch.where(label[:, None] == 3, torch.nan, x * 0.5)

    broken = rg.Denoiser(network, PATH, predicts="data", shape=(2,), conditions={"label": 0})
    labels = [0, 3, 1, 2, 3, 1]
    with pytest.raises(NonFinite, match="row 0 at time 80") as caught:
        rg.sample(broken, PLAN, n=6, seed=4, condition=labels, batch_size=4)
    assert caught.value.finished == [0, 2, 3, 5]
    alone = rg.sample(broken, PLAN, n=6, seed=4, condition=[0, 1, 1, 2, 2, 1])
    assert torch.equal(caught.value.samples, alone[[0, 2, 3, 5]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 2.0}, "a whole number"),
        ({"n": -1}, "n >= 1"),
        ({"seed": 1.5}, "a whole number"),
        ({"seed": None}, "seed=0"),
        ({"items": [-1]}, "from 0"),
        ({"n": 3, "batch_size": 0}, "batch_size >= 1"),
        ({"x": torch.zeros(2, 2, dtype=torch.int64)}, r"x\.float\(\)"),
        ({"x": torch.zeros(2, 2).numpy()}, "torch.as_tensor"),
        ({"x": torch.zeros(1, 2), "signal": torch.zeros(1, 2)}, "one of them"),
        ({"dtype": "float8"}, "dtype=torch.float32"),
        ({"dtype": torch.int64}, "floating point"),
        ({"device": "gpu"}, "device='cpu'"),
    ],
)
def test_what_cannot_be_asked_for_is_said(options, words):
    with pytest.raises((BadType, BadValue), match=words):
        rg.sample(DATA, PLAN, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a CUDA device")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(BadValue, match="cuda.*does not have"):
        rg.sample(DATA, PLAN, device="cuda")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rg.plan("ddim", rg.paths.VP(), grid=[999, 500, 10]), r"\(step \+ 1\)/N"),
        (lambda: rg.plan("ddim", rg.paths.VP(), grid=[0.5, 0.1, 0.0]), "leave the closing 0 out"),
        (lambda: rg.plan("ddim", rg.paths.VP(), grid=[float("nan"), 0.1]), "path times"),
        (lambda: rg.plan("ddim", rg.paths.VP(), nfe=3, start=1e9), "start=10"),
        (lambda: rg.Denoiser(lambda x, t: x, PATH, "epsilon", (2,)), "did you mean 'noise'"),
        (lambda: rg.Denoiser(lambda x, t: x, PATH, "noise", 2), "shape="),
        (lambda: rg.Denoiser(lambda x, t, y: x, PATH, "noise", (2,), conditions=["y"]), "mapping"),
        (lambda: rg.sample(rg.Denoiser(lambda x, t: (x,), PATH, "noise", (2,)), PLAN), "a tuple, returned"),
        (lambda: rg.sample(rg.load("digits"), rg.plan("ddim", rg.load("digits").path, nfe=1), condition=77), "for none"),
        (lambda: rg.Plan.load("no_such_file.json"), "plan.save"),
        (lambda: PLAN.save("."), "the name of a file"),
        (lambda: rg.sample("digits", PLAN), r"retrograde.load\('digits'\)"),
        (lambda: rg.plan("ddim", "digits", nfe=3), r"retrograde.load\('digits'\)"),
        (lambda: rg.plan("DPM++ 2M", PATH, nfe=3), "did you mean 'dpmpp_2m'"),
        (lambda: rg.tune(DATA, nfe=3.5), "a whole number"),
        (lambda: rg.guide.cfg(rg.load("digits"), "3"), "a finite number"),
        (lambda: rg.guide.cfg(rg.load("digits"), torch.tensor([3.0, 2.0])), "a finite number"),
    ],
)
def test_plausible_slips_are_met_with_the_line_that_mends_them(make, words):
    with pytest.raises(RetrogradeError, match=words):
        make()


def test_a_start_in_any_layout_of_memory_is_the_same_start():
    x = 80.0 * torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).T
    assert not x.is_contiguous()
    assert torch.equal(rg.sample(DATA, PLAN, x=x), rg.sample(DATA, PLAN, x=x.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_an_embedded_model_takes_states_of_any_type(dtype):
    den = rg.load("digits8-flow")
    plan = rg.plan("dpmpp_2m", den, nfe=3)
    made = rg.sample(den, plan, n=2, dtype=dtype)
    assert made.dtype == dtype
    assert (made - rg.sample(den, plan, n=2)).abs().max() < 0.1
