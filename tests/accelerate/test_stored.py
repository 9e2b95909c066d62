"""What stored runs found: cascades on trained networks (benchmarks/small_first.py), speed (benchmarks/reuse_speed.py)."""

import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
ROWS = json.loads((RESULTS / "small_first.json").read_text())["sizes"]["rows"]
SPEED = json.loads((RESULTS / "reuse_speed.json").read_text())
WHOLE, FEWER = ROWS["28, 14 steps"], ROWS["28, 7 steps"]


@pytest.mark.parametrize("levels", ["on at 0.2 from 1.2", "on at 0.3 from 1.5", "on at 0.3 from 2.0"])
def test_large_small_large_costs_half_and_keeps_the_distance(levels):
    """Of attention, whose cost grows with the square; as near to the digits as the whole run, nearer than half of it."""
    row = ROWS[f"28-16-28, (2, 8, 4) steps, {levels}"]
    assert row["squared"] < 0.5
    assert row["squared"] < FEWER["squared"]
    assert row["frechet"] < 1.1 * WHOLE["frechet"]
    assert row["frechet"] < FEWER["frechet"]


def test_small_first_keeps_the_spectrum_and_fresh_noise_is_what_keeps_it():
    """Within a tenth down and up again; growing alone the second band lacks 11%, the others hold."""
    both, grown = (ROWS[f"{kind} steps, on at 0.3 from 1.5"] for kind in ("28-16-28, (2, 8, 4)", "16-28, (10, 4)"))
    assert all(abs(band - 1) < 0.1 for band in both["bands"])
    assert [abs(band - 1) < 0.1 for band in grown["bands"]] == [True, False, True, True]
    assert grown["elements"] < 0.53
    assert grown["squared"] < 0.4
    assert grown["frechet"] < FEWER["frechet"]
    assert grown["frechet"] < 1.1 * WHOLE["frechet"]
    assert ROWS["28-16-28 without fresh noise"]["bands"][3] < 0.6
    assert ROWS["16 alone, enlarged"]["bands"][3] < 0.1


def test_a_stream_gives_half_as_many_frames_again_and_more_where_there_is_something_to_share():
    gains = {int(name.split()[0]): row["gain"] for name, row in SPEED["stream"]["rows"].items()}
    assert gains[4] > 1.5
    assert gains[8] > gains[4]


def test_caches_here_are_those_of_other_code():
    for row in SPEED["unet"]["rows"].values():
        assert row["to uncached"]["here"] == pytest.approx(row["to uncached"]["package"], rel=1e-6)
    for row in SPEED["transformer"]["rows"].values():
        assert row["to uncached"]["here"] == row["to uncached"]["diffusers"]


@pytest.mark.parametrize("model", ["digits", "dit8"])
def test_every_policy_is_measured_beside_fewer_steps_and_a_fitted_plan(model):
    whole, *rows = json.loads((RESULTS / "reuse.json").read_text())[model]["rows"]
    policies = {"digits": ["deepcache", "encoder"], "dit8": ["all blocks", "first block", "teacache", "magcache"]}
    policies["dit8"] += ["inner loop", "early exit"]
    for policy in (*policies[model], "merged", "left out"):
        assert any(policy in row["case"] for row in rows)
    for row in rows:
        assert row["macs"] <= whole["macs"]
        assert row["seconds"].keys() >= {"here", "uncached"}
        for one in (row, row["same recipe"], row["fitted"]):
            assert one.keys() >= {"to uncached", "to fine", "frechet"}
        assert row["fitted"]["to fine"] < row["to fine"]  # as the page says: no policy comes near a fit of its cost
