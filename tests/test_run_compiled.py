"""The loop as one graph, and without a wait for the device."""

from collections import deque

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import retrograde as rg
from retrograde.noise import Noise, Remembered
from retrograde.plan import Plan

PATH = rg.paths.VP()
X = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
COMPILED = (
    "ddim",
    "deis_tab3",
    "dpm_solver_3",
    "dpmpp_2m",
    "dpmpp_3m",
    "ghvb_2",
    "heun",
    "pndm",
    "reversible_heun",
    "unipc_3",
)


@pytest.fixture
def den() -> rg.Denoiser:
    weight = torch.randn(2, 2, generator=torch.Generator().manual_seed(1))
    return rg.Denoiser(lambda x, t: torch.tanh(x @ weight) * (1 + t)[:, None], PATH, "noise", (2,))


def whole(plan: Plan, den: rg.Denoiser, **options):
    def loop(x: Tensor) -> Tensor:
        return deque(rg.run(plan, den, x, **options), 1)[0].x_t

    return loop


def compiled(loop, backend: str = "eager"):
    torch._dynamo.reset()
    return torch.compile(loop, fullgraph=True, backend=backend)


@pytest.mark.parametrize("name", COMPILED)
def test_the_whole_loop_is_one_graph_and_gives_the_same_samples(name, den):
    loop = whole(rg.plan(name, PATH, nfe=7), den)
    assert torch.equal(compiled(loop)(X), loop(X))


def test_so_does_what_a_user_calls_and_a_traced_backend(den):
    plan = rg.plan("dpmpp_2m", PATH, nfe=6)
    assert torch.equal(compiled(lambda x: rg.sample(den, plan, x=x))(X), rg.sample(den, plan, x=X))
    loop = whole(plan, den)
    assert torch.equal(compiled(loop, "aot_eager")(X), loop(X))


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_sde", "restart"])
def test_a_stochastic_plan_compiles_with_noise_that_was_drawn_before(name, den):
    plan = rg.recipes.restart.plan(PATH, nfe=31) if name == "restart" else rg.plan(name, PATH, nfe=6)
    plain = whole(plan, den, noise=Noise(3, range(4)))(X)
    loop = whole(plan, den, noise=Remembered(Noise(3, range(4))))
    assert torch.equal(loop(X), plain)
    assert torch.equal(compiled(loop)(X), plain)


class Waits(TorchDispatchMode):
    """Counts what a device would be waited for: a number read off a tensor, a tensor copied to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
            return False
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") == torch.device("cpu"):
            self.count += 1
            return torch.zeros(args[0].shape)
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", rg.recipes.names())
def test_the_loop_never_waits_for_a_device_but_once_at_its_end(name):
    """Tensors without values stand in for a device's: reading one would fail, were it not counted."""
    den = rg.Denoiser(lambda x, t: 0.5 * x, PATH, "noise", (2,))
    seen = []
    with Waits() as waits:
        for _ in rg.run(rg.plan(name, PATH, nfe=9), den, torch.empty(3, 2, device="meta"), noise=Noise(0, range(3))):
            seen.append(waits.count)
    assert set(seen) == {0}
    assert waits.count == 1  # whether all is finite


def test_an_adaptive_run_waits_once_a_step():
    den = rg.Denoiser(lambda x, t: 0.5 * x, PATH, "noise", (2,))
    it = rg.controllers.adaptive(den)
    with Waits() as waits:
        states = list(rg.run(it.plan, den, torch.empty(3, 2, device="meta"), controllers=[it]))
    steps = sum(state.row.time is not None and state.row.time == state.row.next_time for state in states) - 1
    assert waits.count == steps + 1 > 5


def test_the_counter_counts():
    x = torch.empty(3, device="meta")
    with Waits() as waits:
        bool(x.sum() > 0)
        x.sum().item()
        x.cpu()
    assert waits.count == 3
