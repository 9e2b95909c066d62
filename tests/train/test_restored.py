"""What trained restoration models do, as measured and kept: ResShift, RDDM, Resfusion, MRS, SGMSE and StoRM."""

import json
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
DIGITS: dict[str, dict[str, Any]] = {
    row["plan"]: row for row in json.loads((RESULTS / "restore_digits.json").read_text())["rows"]
}


def test_every_model_restores():
    """Every sampler beats what it starts from in features' distance; all but plain Euler steps in PSNR too."""
    start = DIGITS["anchor"]
    for name, row in DIGITS.items():
        if name not in ("clean", "anchor", "resshift, 1"):
            assert row["frechet"] < start["frechet"], name
            assert row["psnr"] > start["psnr"] or name == "euler, 10", name


def test_resshift_needs_few_steps():
    """Four steps against DDPM's four: nearer to digits by half, at no loss of PSNR; fifteen beat DDPM's hundred in both."""
    four, fifteen, few, many = (DIGITS[name] for name in ("resshift, 4", "resshift, 15", "ddpm, 4", "ddpm, 100"))
    assert four["frechet"] < 0.6 * few["frechet"]
    assert four["psnr"] > few["psnr"]
    assert abs(four["frechet"] - many["frechet"]) < 0.5 * abs(few["frechet"] - many["frechet"])
    assert fifteen["frechet"] < many["frechet"]
    assert fifteen["psnr"] > many["psnr"]


def test_rddm_takes_off_residual_and_noise_in_either_order():
    """Both orders are one run to rounding, as the level s/a alone tells states apart; five steps of DDIM are far behind."""
    together, first = DIGITS["rddm, 5"], DIGITS["residual first, 5"]
    assert first["psnr"] == pytest.approx(together["psnr"], abs=0.01)
    assert together["frechet"] < 0.5 * DIGITS["ddim, 5"]["frechet"]


def test_mrs_in_ten_steps_is_near_a_hundred_of_the_posterior():
    """0.26 dB are lost (the catalogue expects 0.2), none of the distance; Euler-Maruyama loses more than 1 dB."""
    ten, hundred, euler = (DIGITS[name] for name in ("mrs_ode, 10", "posterior, 100", "euler, 10"))
    assert hundred["psnr"] - ten["psnr"] < 0.3
    assert ten["frechet"] < 1.1 * hundred["frechet"]
    assert hundred["psnr"] - euler["psnr"] > 1.0
    assert euler["frechet"] > 1.3 * ten["frechet"]


def test_resfusion_in_five_steps_is_no_better_than_ddpm_from_noise():
    """The catalogue expects a decibel more than DDPM's five steps; against a network that predicts v there is none."""
    five, plain = DIGITS["resfusion, 5"], DIGITS["ddpm, 5"]
    assert five["psnr"] - plain["psnr"] < 1.0
    assert five["frechet"] < plain["frechet"]
    assert five["psnr"] - DIGITS["anchor"]["psnr"] > 1.5


def test_langevin_steps_do_not_hurt():
    assert DIGITS["sgmse, 60"]["psnr"] > DIGITS["sgmse without Langevin, 30"]["psnr"]


@pytest.mark.parametrize("place", ["noise", "room"])
def test_regeneration_in_five_steps_is_above_thirty_of_enhancement(place):
    """Recordings of a voice in noise, and in a room too, equal seconds of training: SI-SDR at every number of steps."""
    rows = json.loads((RESULTS / "restore_speech.json").read_text())["rows"]
    found = {(row["model"], row["evaluations"]): row["si_sdr"] for row in rows if row["place"] == place}
    assert min(found["storm", 6], found["storm", 11]) > found["sgmse", 30] + 1.0
    assert all(found["storm", nfe + 1] > found["sgmse", nfe] for nfe in (2, 5, 10, 30))
    # nothing is trained for long enough to gain on what it starts from, which the catalogue expects (4 dB)
    assert max(found.values()) == found["degraded", 0]
