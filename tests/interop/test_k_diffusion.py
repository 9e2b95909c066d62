"""Samplers of k-diffusion and ComfyUI against what their own code returned (benchmarks/record_samplers.py)."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

import retrograde as rg
from retrograde.errors import BadValue, UnknownName
from retrograde.interop.schedulers import from_k_diffusion, sampler_names

PEERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "peers.py")))
RECORDED = PEERS.recorded()
SIGMAS = RECORDED["sigmas"]
RUNS = [pytest.param(run, id=f"{run['package']}-{run['sampler']}-{run['options']}") for run in RECORDED["runs"]]


@pytest.mark.parametrize("run", RUNS)
def test_a_sampler_of_k_diffusion_is_its_plan(run):
    plan, difference = PEERS.compare_recorded(run, SIGMAS)
    assert difference < PEERS.TOLERANCE
    assert plan.provenance["sampler"].removeprefix("sample_") == run["sampler"]


def test_every_sampler_is_recorded():
    recorded = {run["sampler"] for run in RECORDED["runs"]}
    # "ddim" is the name under which ComfyUI runs its Euler sampler
    assert set(sampler_names()) - {"ddim", "sample_lms"} == recorded
    assert from_k_diffusion("ddim", SIGMAS) == from_k_diffusion("euler", SIGMAS)


def test_the_two_packages_end_lms_differently():
    theirs = from_k_diffusion("sample_lms", SIGMAS)
    comfy = from_k_diffusion("lms", SIGMAS)
    assert theirs.rows[:-1] == comfy.rows[:-1]
    assert len(theirs.rows[-1].outputs) == 4
    assert len(comfy.rows[-1].outputs) == 1


@pytest.mark.parametrize("name", sampler_names())
def test_names_go_with_prefix_and_suffix(name):
    plain = from_k_diffusion(name, SIGMAS)
    assert plain.nfe >= len(SIGMAS) - 1
    if not name.startswith("sample_") and name != "lms":
        assert from_k_diffusion(f"sample_{name}", SIGMAS) == plain
        assert from_k_diffusion(f"{name}_gpu", SIGMAS) == plain


@pytest.mark.parametrize("name", [name for name in sampler_names() if name != "dpm_fast"])
def test_a_run_that_ends_above_zero_ends_there(name):
    plan = from_k_diffusion(name, SIGMAS[:-1])
    assert plan.rows[-1].next_time == pytest.approx(SIGMAS[-2])
    assert plan.start == SIGMAS[0]


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "heun", "euler_ancestral", "uni_pc_bh2", "res_multistep"])
def test_levels_on_another_path_are_the_same_levels(name):
    """The state x/a has one trajectory, whichever path carries it."""
    path = rg.paths.VP()
    there = from_k_diffusion(name, SIGMAS, path=path)
    here = from_k_diffusion(name, SIGMAS)
    assert [path.sigma(t) for t in there.times] == pytest.approx([here.path.sigma(t) for t in here.times])
    x = PEERS.first_state(here)
    one = PEERS.ours(here, PEERS.mixture(here.path), x, PEERS.Draws((3, 2)))
    other = PEERS.ours(there, PEERS.mixture(path), x * path.a(there.start), PEERS.Draws((3, 2)))
    assert PEERS.gap(other / (1.0 if there.rows[-1].next_time is None else path.a(there.rows[-1].next_time)), one) < 1e-8


def test_on_a_flow_path_the_levels_are_its_times():
    times = [0.99, 0.8, 0.5, 0.2, 0.0]
    plan = from_k_diffusion("euler", times, path=rg.paths.Flow())
    assert list(plan.times) == times[:-1]
    assert plan == rg.plan("euler", rg.paths.Flow(), grid=times[:-1])


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("euler", {"s_churn": 3.0}, "s_churn"),
        ("heun", {"s_churn": 3.0}, "s_tmin"),
        ("dpm_fast", {"eta": 1.0}, "eta"),
        ("dpm_adaptive", {}, "while it runs"),
        ("euler_cfg_pp", {}, "unconditional"),
        ("ipndm", {"max_order": 5}, "max_order"),
        ("ipndm_v", {"max_order": 5}, "max_order"),
        ("er_sde", {"max_stage": 4}, "max_stage"),
        ("deis", {"deis_mode": "rhoab"}, "rhoab"),
        ("euler_ancestral", {"eta": 2.0}, "eta"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_named(name, options, word):
    with pytest.raises(BadValue, match=word):
        from_k_diffusion(name, SIGMAS, **options)


def test_unknown_names_are_met_with_the_nearest():
    with pytest.raises(UnknownName, match="dpmpp_2m"):
        from_k_diffusion("dpmpp_2mm", SIGMAS)
    with pytest.raises(UnknownName, match="s_noise"):
        from_k_diffusion("euler_ancestral", SIGMAS, s_noize=1.0)
    with pytest.raises(UnknownName, match="solver_type"):
        from_k_diffusion("dpmpp_2m_sde", SIGMAS, solver_type="even")
    with pytest.raises(BadValue, match="sigmas"):
        from_k_diffusion("euler", [1.0, 2.0])


@pytest.mark.parametrize("order", [2, 3, 4])
def test_only_the_mended_weights_of_ipndm_v_integrate_polynomials(order):
    """On uneven levels: the published ones of order 3 miss u^2, those of order 4 do not even add up to the step."""

    def misses(plan: rg.Plan) -> list[bool]:
        row = plan.rows[5]
        knots = [sigma - row.time for sigma in plan.times[5 : 5 - order : -1]]
        step = row.next_time - row.time
        moments = [sum(w * u**p for w, u in zip(row.outputs, knots, strict=True)) for p in range(order)]
        exact = [step ** (p + 1) / (p + 1) for p in range(order)]
        return [abs(got - want) > 1e-9 * abs(want) for got, want in zip(moments, exact, strict=True)]

    assert misses(from_k_diffusion("ipndm_v", SIGMAS, max_order=order, mended=True)) == [False] * order
    published = misses(from_k_diffusion("ipndm_v", SIGMAS, max_order=order))
    assert published == {2: [False, False], 3: [False, False, True], 4: [True, True, True, True]}[order]


@pytest.mark.parametrize(("name", "size"), [("er_sde", 1e-3), ("deis", 1e-4), ("uni_pc", 1e-3)])
def test_small_slips_are_small(name, size):
    published, mended = (from_k_diffusion(name, SIGMAS, mended=choice) for choice in (False, True))
    x = PEERS.first_state(mended)
    ends = [PEERS.ours(plan, PEERS.mixture(plan.path), x, PEERS.Draws((3, 2))) for plan in (published, mended)]
    difference = PEERS.gap(*ends)
    assert 1e-7 < difference < size
