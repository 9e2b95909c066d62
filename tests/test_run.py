"""The loop: what it yields, stops at, counts, differentiates and hands to controllers and particles."""

import dataclasses

import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.denoisers.prediction import Reading
from retrograde.errors import BadType, BadValue, PlanError, ShapeError
from retrograde.plan import Plan, Row
from retrograde.run import Memory, NonFinite, Resampled, State

PATH = rg.paths.VP()
DOUBLE = torch.float64


@pytest.fixture
def den(mixture) -> rg.oracles.GaussianMixture:
    return mixture(PATH)


def network(parameters: Tensor | None = None, seen: list | None = None) -> rg.Denoiser:
    """A small nonlinear network in the plane, with parameters to differentiate."""
    weight = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=DOUBLE) if parameters is None else parameters

    def call(x: Tensor, t: Tensor) -> Tensor:
        if seen is not None:
            seen.append((x.shape[0], float(t[0])))
        return torch.tanh(x @ weight.to(x.dtype)) * (1 + t.to(x.dtype))[:, None]

    return rg.Denoiser(call, PATH, "data", (2,), name="tiny")


# ------------------------------------------------------------------------------------------------------- what it yields


def test_every_row_yields_its_state(den):
    plan = rg.plan("heun", PATH, nfe=7)
    states = list(rg.steps(plan, den, n=3, seed=1))
    assert [state.index for state in states] == list(range(len(plan)))
    assert [state.t for state in states] == [row.next_time for row in plan.rows]
    assert states[-1].t is None
    assert all(state.row.network_time is not None for state in states)
    assert [(row.time, row.states) for row in (state.row for state in states)] == [(r.time, r.states) for r in plan.rows]
    last = states[-1]
    assert torch.equal(last.x_t, rg.sample(den, plan, n=3, seed=1))
    assert torch.equal(last.mean, last.prediction.data)
    assert (last.ledger.nfe, last.ledger.rows, dict(last.ledger.evaluations)) == (7, 7, {"mixture": 7})
    assert last.ledger.seconds > 0.0


def test_a_row_without_a_question_keeps_the_last_prediction(den):
    plan = rg.plan("edm_stochastic", PATH, nfe=5)
    moves = [state for state in rg.steps(plan, den) if state.row.time is None]
    assert moves
    for state in moves:
        assert state.mean.shape == (1, 2)
    assert plan.nfe == 5


@pytest.mark.parametrize("predicts", ["noise", "v", "velocity"])
@pytest.mark.parametrize("recipe", ["ddim", "euler_ancestral", "dpmpp_2s", "dpmpp_3m"])
def test_a_reading_is_not_made_and_changes_nothing(recipe, predicts, mixture):
    den = mixture(rg.paths.VP())
    plan = rg.plan(recipe, den, nfe=8)
    other = rg.Denoiser(lambda x, t: den.predict(x, float(t[0])).read(predicts), den.path, predicts, den.shape)
    states = list(rg.steps(plan, other, n=2, seed=3, dtype=DOUBLE))
    for state in states:
        before = states[state.index - 1].x_t if state.index else state.prediction.x_t
        data = [states[state.index - i].prediction.data for i in range(min(3, state.index + 1))]
        noises = [n * draw for n, draw in zip(state.row.noises, state.memory.noises, strict=False)]
        olds = (before, *(states[state.index - 2].x_t if state.index > 1 else states[0].prediction.x_t,))
        terms = [c * x for c, x in zip(state.row.states, olds, strict=False)] + noises
        terms += [c * mean for c, mean in zip(state.row.outputs, data, strict=False)]
        assert torch.allclose(state.x_t, sum(terms), rtol=1e-10, atol=1e-12)
        assert torch.equal(state.mean, data[0])
        assert isinstance(state.memory.kept[0], Reading)
        assert torch.equal(state.memory.outputs[0], data[0])
    if recipe != "euler_ancestral":
        resumed = list(rg.steps(plan[3:], other, state=states[2]))[-1].x_t
        assert torch.equal(resumed, states[-1].x_t)


def test_a_generator_may_be_left_early(den):
    plan = rg.plan("dpmpp_2m", PATH, nfe=10)
    calls: list = []
    for state in rg.steps(plan, network(seen=calls), n=2):
        if state.index == 3:
            break
    assert len(calls) == 4
    assert state.mean.shape == (2, 2)


def test_a_recording_holds_everything_and_replays(den):
    for name in ("dpmpp_2m", "edm_stochastic", "unipc_2"):
        plan = rg.plan(name, PATH, nfe=6)
        rec = rg.record(den, plan, n=3, seed=4)
        assert len(rec.trajectory) == len(plan) + 1
        assert len(rec.means) == len(plan)
        assert torch.equal(rec.trajectory[-1], rec.samples)
        assert torch.equal(rec.samples, rg.sample(den, plan, n=3, seed=4))
        assert rec.ledger.nfe == 6
        assert all(row.network_time == row.time for row in rec.plan.rows if row.time is not None)
        assert torch.equal(rg.sample(den, rec.plan, n=3, seed=4), rec.samples)
        assert torch.equal(rg.sample(den, plan, seed=4, x=rec.trajectory[0]), rec.samples)


def test_plan_and_denoiser_are_taken_in_either_order(den):
    plan = rg.plan("ddim", PATH, nfe=3)
    assert torch.equal(rg.sample(plan, den), rg.sample(den, plan))
    with pytest.raises(BadType, match="wrap the network"):
        rg.sample(lambda x, t: x, plan)


def test_another_path_is_bridged(mixture):
    plan = rg.plan("ddim", PATH, nfe=5, start=20.0)
    other = mixture(rg.paths.EDM())
    assert torch.allclose(rg.sample(other, plan, dtype=DOUBLE), rg.sample(mixture(PATH), plan, dtype=DOUBLE), atol=1e-8)
    with pytest.raises(PlanError, match="on_path"):
        next(rg.run(plan, other, torch.zeros(1, 2)))


# --------------------------------------------------------------------------------------------------------------- starts


def test_a_signal_is_noised_to_the_start(den):
    plan = rg.plan("ddim", PATH, nfe=5, start=0.8)
    signal = torch.tensor([[2.0, -1.0], [0.5, 0.5]], dtype=DOUBLE)
    rec = rg.record(den, plan, signal=signal, seed=3)
    noise = rg.record(den, plan, n=2, seed=3, dtype=DOUBLE).trajectory[0]
    assert torch.allclose(rec.trajectory[0], PATH.a(plan.start) * signal + noise)
    assert rec.samples.dtype == DOUBLE
    # a weak start stays near the signal
    near = rg.sample(den, rg.plan("ddim", PATH, nfe=5, start=0.02), signal=signal)
    assert (near - signal).abs().max() < 0.1


def test_starts_are_checked(den):
    plan = rg.plan("ddim", PATH, nfe=3)
    with pytest.raises(ShapeError, match="add the batch axis"):
        rg.sample(den, plan, x=torch.zeros(2))
    with pytest.raises(BadValue, match="n >= 1"):
        rg.sample(den, plan, n=0)
    with pytest.raises(BadValue, match="2 items for n=3"):
        rg.sample(den, plan, n=3, items=[0, 1])
    with pytest.raises(ShapeError, match="for 'tiny'"):
        network().predict(torch.zeros(1, 3), 0.5)


def test_memory_is_asked_for(den):
    plan = rg.plan("dpmpp_2m", PATH, nfe=5)
    with pytest.raises(PlanError, match="1 earlier predictions, without them"):
        next(rg.run(plan[2:], den, torch.zeros(1, 2)))
    with pytest.raises(PlanError, match="stochastic plan ddpm@1 without noise"):
        next(rg.run(rg.plan("ddpm", PATH, nfe=5), den, torch.zeros(1, 2)))


def test_a_longer_memory_than_needed_is_cut_to_the_newest(den):
    plan = rg.plan("dpmpp_2m", PATH, nfe=5)
    whole = rg.sample(den, plan, n=1, dtype=DOUBLE)
    kept: list[State] = list(rg.steps(plan, den, dtype=DOUBLE))
    old = [rg.record(den, plan, dtype=DOUBLE).trajectory[i] for i in (2, 1, 0)]
    outputs = tuple(kept[i].prediction.data for i in (1, 0))
    *_, last = rg.run(plan[2:], den, old[0], memory=Memory(tuple(old), outputs))
    assert torch.equal(last.x_t, whole)


def restarts() -> Plan:
    """Down, up again and down: the interval from `low` up to `high` is visited twice."""
    high, low = PATH.time_of_sigma(2.0), PATH.time_of_sigma(0.5)
    down = rg.recipes.get("ddpm").compile(PATH, (high, low)).rows[0]
    added = PATH.a(high) * (2.0**2 - 0.5**2) ** 0.5
    up = Row(None, high, (PATH.a(high) / PATH.a(low),), (), (added,), renoise=True)
    end = rg.plan("ddim", PATH, grid=[low])[0]
    return Plan(PATH, (down, up, down, up, down, end), start=high)


def test_a_revisited_interval_gets_fresh_noise_also_after_a_cut(den):
    plan = restarts()
    states = list(rg.steps(plan, den, n=2, seed=3, dtype=DOUBLE))
    firsts, seconds = states[1].memory.noises[0], states[3].memory.noises[0]
    assert not torch.equal(firsts, seconds)
    for state in states[:-1]:
        rest = rg.sample(den, plan[state.index + 1 :], state=state, seed=3)
        assert torch.equal(rest, states[-1].x_t), state.index


# ------------------------------------------------------------------------------------------------------------- failures


def sick(bad: float, when: float, sick_items: float = 1.5) -> rg.Denoiser:
    """Returns `bad` for items above `sick_items` at low levels."""

    def call(x: Tensor, t: Tensor) -> Tensor:
        out = 0.1 * x
        return torch.where((x[:, :1] > sick_items) & (t[:, None] < when), torch.full_like(out, bad), out)

    return rg.Denoiser(call, PATH, "data", (2,))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("batch_size", [None, 2, 1])
def test_a_network_that_fails_stops_the_run_and_keeps_the_rest(bad, batch_size):
    plan = rg.plan("ddim", PATH, grid=[0.9, 0.8, 0.7, 0.1])
    x = torch.tensor([[0.0, 1.0], [9.0, 0.0], [0.5, 0.5], [-1.0, 2.0], [8.0, 8.0]])
    with pytest.raises(NonFinite, match=r"NaN or infinity in row 1 at time 0.8 for items \[") as caught:
        rg.sample(sick(bad, 0.85), plan, x=x, batch_size=batch_size)
    healthy = rg.sample(sick(bad, 0.0), plan, x=x)
    error = caught.value
    assert error.finished == [0, 2, 3]
    assert torch.equal(error.samples, healthy[[0, 2, 3]])
    assert error.row == 1
    for statistic in ("mean", "std", "min", "max", "compute in float32"):
        assert statistic in str(error)


def test_the_finished_items_keep_their_numbers():
    plan = rg.plan("ddim", PATH, grid=[0.9, 0.8, 0.1])
    x = torch.tensor([[9.0, 0.0], [0.5, 0.5], [0.1, 0.2]])
    with pytest.raises(NonFinite) as caught:
        rg.sample(sick(float("nan"), 0.85), plan, x=x, items=[10, 20, 30])
    assert caught.value.finished == [20, 30]
    with pytest.raises(NonFinite) as caught:
        rg.sample(sick(float("nan"), 2.0, -100.0), plan, x=x)
    assert caught.value.samples is None
    assert caught.value.finished == []


def test_a_large_sum_is_not_mistaken_for_infinity():
    plan = rg.plan("ddim", PATH, grid=[0.9, 0.1])
    huge = rg.Denoiser(lambda x, t: torch.full_like(x, 3e38), PATH, "data", (64,))
    assert rg.sample(huge, plan, n=4).isfinite().all()


# ------------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("name", ["dpmpp_2m", "heun", "unipc_2", "ddpm", "deis_tab2"])
def test_checkpointing_gives_the_gradients_of_unrolling(name):
    plan = rg.plan(name, PATH, nfe=5, start=3.0)
    x = 2 * torch.randn(3, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    gradients, calls = {}, {}
    for how in ("unroll", "checkpoint"):
        weight = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=DOUBLE, requires_grad=True)
        start = x.clone().requires_grad_(True)
        seen: list = []
        samples = rg.sample(network(weight, seen), plan, x=start, gradient=how)
        (samples**2).sum().backward()
        gradients[how] = (samples.detach(), weight.grad, start.grad)
        calls[how] = len(seen)
    for one, other in zip(gradients["unroll"], gradients["checkpoint"], strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
        assert one.abs().max() > 1e-3
    assert calls == {"unroll": 5, "checkpoint": 10}
    plain = rg.sample(network(), plan, x=x)
    assert torch.allclose(plain, gradients["unroll"][0], rtol=0, atol=1e-12)


def test_the_gradient_is_that_of_the_samples():
    plan = rg.plan("dpmpp_2m", PATH, nfe=4)
    x = torch.tensor([[0.5, -1.0]], dtype=DOUBLE, requires_grad=True)
    sampled = rg.sample(network(), plan, x=x, gradient="unroll")[0, 0]
    (gradient,) = torch.autograd.grad(sampled, x)
    h = torch.tensor([[1e-6, 0.0]], dtype=DOUBLE)
    up, down = (rg.sample(network(), plan, x=x.detach() + sign * h)[0, 0] for sign in (1, -1))
    assert float(gradient[0, 0]) == pytest.approx(float(up - down) / 2e-6, rel=1e-6)


def test_without_asking_there_is_no_graph():
    weight = torch.ones(2, 2, dtype=DOUBLE, requires_grad=True)
    x = torch.ones(1, 2, dtype=DOUBLE, requires_grad=True)
    state: State
    for state in rg.steps(rg.plan("heun", PATH, nfe=5), network(weight), x=x):
        assert not state.x_t.requires_grad
        assert not state.prediction.value.requires_grad
        assert torch.is_grad_enabled()  # what the caller does between the rows is the caller's
    with pytest.raises(BadValue, match="gradient='adjoint'"):
        rg.sample(network(), rg.plan("ddim", PATH, nfe=2), gradient="adjoint")


# ------------------------------------------------------------------------------------- controllers, particles and knobs


@dataclasses.dataclass
class StopAt:
    """Returns the data mean as soon as the level is low enough."""

    sigma: float
    consumes: frozenset[str] = frozenset()

    def rewrite(self, remaining, state):
        if state is None or state.t is None or PATH.sigma(state.t) > self.sigma:
            return remaining
        return (Row(state.t, None, (0.0,), (1.0,)),)

    def correct(self, state):
        return state.x_t


@dataclasses.dataclass
class Push:
    """Adds something to the state after a row."""

    by: float
    consumes: frozenset[str] = frozenset({"push"})

    def rewrite(self, remaining, state):
        return remaining

    def correct(self, state):
        return state.x_t + self.by * state.row.knobs.get("push", 0.0)


def pushed() -> Plan:
    plan = rg.plan("dpmpp_2m", PATH, nfe=6)
    rows = [dataclasses.replace(row, knobs={"push": float(k == 2)}) for k, row in enumerate(plan.rows)]
    return dataclasses.replace(plan, rows=tuple(rows))


def test_a_controller_may_end_the_run(den):
    plan = rg.plan("ddim", PATH, nfe=10)
    rec = rg.record(den, plan, n=2, controllers=[StopAt(0.5)])
    low = [level for level in map(PATH.sigma, plan.times) if level <= 0.5]
    assert rec.plan.nfe == 10 - len(low) + 1
    assert rec.plan != plan
    assert rec.plan[-1].network_time == rec.plan[-1].time  # also rows a controller wrote are bound
    assert torch.equal(rec.samples, rec.means[-1])
    assert torch.equal(rg.sample(den, rec.plan, n=2), rec.samples)  # an adaptive run replays as a plain table


def test_a_controller_may_correct_the_state(den):
    plan = pushed()
    x = torch.tensor([[1.0, 2.0]], dtype=DOUBLE)
    states = list(rg.steps(plan, den, x=x, controllers=[Push(0.5)]))
    plain = list(rg.steps(rg.plan("dpmpp_2m", PATH, nfe=6), den, x=x))
    assert torch.allclose(states[2].x_t, plain[2].x_t + 0.5)
    assert torch.equal(states[2].memory.states[0], states[2].x_t)  # what is handed on is what was made
    assert torch.equal(states[3].prediction.x_t, states[2].x_t)
    rest = rg.sample(den, plan[3:], state=states[2], controllers=[Push(0.5)])
    assert torch.equal(rest, states[-1].x_t)


def test_a_controller_cannot_ask_for_history_that_is_gone(den):
    @dataclasses.dataclass
    class Greedy(Push):
        def rewrite(self, remaining, state):
            row = remaining[0]
            return (dataclasses.replace(row, outputs=(*row.outputs, 0.0, 0.0, 0.0)), *remaining[1:])

    with pytest.raises(PlanError, match="rewritten by a controller, uses 4 outputs"):
        rg.sample(den, pushed(), controllers=[Greedy(1.0)])


def test_a_knob_is_consumed_by_exactly_one_part(den):
    with pytest.raises(PlanError, match="knob 'push' of dpmpp_2m@1, consumed by 0 parts"):
        rg.sample(den, pushed())
    with pytest.raises(PlanError, match="consumed by 2 parts"):
        rg.sample(den, pushed(), controllers=[Push(1.0), Push(2.0)])


def test_resampling_moves_every_history(den):
    order = torch.tensor([2, 0, 0])

    @dataclasses.dataclass
    class Swap:
        at: int

        def resample(self, state, noise):
            return Resampled(order) if state.index == self.at else None

    for name in ("dpmpp_3m", "unipc_2", "dpmpp_2m_sde"):
        plan = rg.plan(name, PATH, nfe=6)
        at = 3
        moved = list(rg.steps(plan, den, n=3, seed=2, particles=Swap(at)))
        plain = list(rg.steps(plan, den, n=3, seed=2))
        for history in ("states", "outputs", "noises"):
            for one, other in zip(getattr(moved[at].memory, history), getattr(plain[at].memory, history), strict=True):
                assert torch.equal(one, other[order])
        assert torch.equal(moved[at].x_t, plain[at].x_t[order])
        if not plan.stochastic:  # the items are what their ancestors were, to the end
            assert torch.equal(moved[-1].x_t, plain[-1].x_t[order])


def test_rows_of_zeros_are_refused(den):
    end = rg.plan("ddim", PATH, nfe=1)[0]
    plan = Plan(PATH, (dataclasses.replace(end, states=(0.0,), outputs=(0.0,)),), misses=("point mass",))
    with pytest.raises(PlanError, match="all zero"):
        rg.sample(den, plan)
