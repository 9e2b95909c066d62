"""The samplers of k-diffusion and ComfyUI by their names there, on explicit noise levels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retrograde import recipes
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue, UnknownName
from retrograde.interop import sampler_rows
from retrograde.interop.ladders import Ladder
from retrograde.interop.writers import Written, compiled
from retrograde.paths import EDM, Path
from retrograde.plan import Plan
from retrograde.recipes.recipe import made

Options = Mapping[str, Any]
Write = Callable[[Ladder, Options, bool], Written]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A sampler: the options of its function with their defaults, its rows, and what it does wrong, if known."""

    options: Options
    write: Write
    slips: str | None = None


def _recipe(name: str, renamed: Mapping[str, str] | None = None, **fixed: Any) -> Write:
    """Return the writer of a recipe; `renamed` maps options of the peer to those of the recipe."""

    def write(ladder: Ladder, options: Options, mended: bool) -> Written:
        names = renamed or {}
        given = {names.get(k, k): v for k, v in options.items()}
        allowed = recipes.get(name).options
        return compiled(ladder, name, **fixed, **{k: v for k, v in given.items() if k in allowed and k not in fixed})

    return write


_CHURN = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0}
_ANCESTRAL = {"eta": 1.0, "s_noise": 1.0}

SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(_CHURN, sampler_rows.without_churn("euler")),
    "ddim": Sampler({}, _recipe("euler")),
    "heun": Sampler(_CHURN, sampler_rows.heun),
    "dpm_2": Sampler(_CHURN, sampler_rows.without_churn("dpm_2")),
    "euler_ancestral": Sampler(_ANCESTRAL, _recipe("euler_ancestral")),
    "dpm_2_ancestral": Sampler(_ANCESTRAL, _recipe("dpm_2_ancestral")),
    "lms": Sampler({"order": 4}, _recipe("lms")),
    "sample_lms": Sampler({"order": 4}, sampler_rows.lms_to_zero),
    "dpm_fast": Sampler({"eta": 0.0, "s_noise": 1.0}, sampler_rows.dpm_fast),
    "dpmpp_2s_ancestral": Sampler(_ANCESTRAL, _recipe("dpmpp_2s_ancestral")),
    "dpmpp_sde": Sampler(_ANCESTRAL | {"r": 0.5}, _recipe("dpmpp_sde")),
    "dpmpp_2m": Sampler({}, _recipe("dpmpp_2m")),
    "dpmpp_2m_sde": Sampler(_ANCESTRAL | {"solver_type": "midpoint"}, sampler_rows.dpmpp_2m_sde),
    "dpmpp_2m_sde_heun": Sampler(_ANCESTRAL | {"solver_type": "heun"}, sampler_rows.dpmpp_2m_sde),
    "dpmpp_3m_sde": Sampler(_ANCESTRAL, _recipe("dpmpp_3m_sde")),
    "ddpm": Sampler({}, _recipe("ddpm")),
    "lcm": Sampler({}, _recipe("lcm")),
    "heunpp2": Sampler(_CHURN, sampler_rows.without_churn("heunpp2")),
    "ipndm": Sampler({"max_order": 4}, sampler_rows.ipndm),
    "ipndm_v": Sampler(
        {"max_order": 4},
        sampler_rows.ipndm_v,
        "on uneven levels the weights of order 3 miss second powers, and those of order 4 do not even add up to the step",
    ),
    "deis": Sampler(
        {"max_order": 3, "deis_mode": "tab"},
        sampler_rows.deis,
        'mode "tab" sums 10000 rectangles over one interval too few; mode "rhoab" fails after max_order steps',
    ),
    "res_multistep": Sampler({"s_noise": 1.0}, _recipe("res_2m")),
    "res_multistep_ancestral": Sampler(_ANCESTRAL, _recipe("res_2m_ancestral")),
    "gradient_estimation": Sampler({"ge_gamma": 2.0}, _recipe("gradient_estimation", {"ge_gamma": "gamma"})),
    "er_sde": Sampler({"s_noise": 1.0, "max_stage": 3}, sampler_rows.er_sde, "its integrals are sums of 200 rectangles"),
    "seeds_2": Sampler(_ANCESTRAL | {"r": 0.5, "solver_type": "phi_1"}, _recipe("seeds_2", {"solver_type": "weights"})),
    "seeds_3": Sampler(_ANCESTRAL | {"r_1": 1 / 3, "r_2": 2 / 3}, _recipe("seeds_3")),
    "exp_heun_2_x0": Sampler({"solver_type": "phi_2"}, _recipe("seeds_2", {"solver_type": "weights"}, eta=0.0, r=1.0)),
    "exp_heun_2_x0_sde": Sampler(
        _ANCESTRAL | {"solver_type": "phi_2"}, _recipe("seeds_2", {"solver_type": "weights"}, r=1.0)
    ),
    "sa_solver": Sampler(sampler_rows.SA_OPTIONS, sampler_rows.sa_solver),
    "sa_solver_pece": Sampler(sampler_rows.SA_OPTIONS, sampler_rows.sa_solver_pece),
    "uni_pc": Sampler(
        {"variant": "bh1"}, sampler_rows.uni_pc, "it ends at the level 0.001 and returns that state, not the data mean"
    ),
    "uni_pc_bh2": Sampler(
        {"variant": "bh2"}, sampler_rows.uni_pc, "it ends at the level 0.001 and returns that state, not the data mean"
    ),
}
"""Name there to what it is here; names also go with the prefix "sample_" and the suffix "_gpu"."""

LABELS = {
    "euler": "euler",
    "euler a": "euler_ancestral",
    "heun": "heun",
    "lms": "sample_lms",
    "dpm2": "dpm_2",
    "dpm2 a": "dpm_2_ancestral",
    "dpm fast": "dpm_fast",
    "dpm++ 2s a": "dpmpp_2s_ancestral",
    "dpm++ sde": "dpmpp_sde",
    "dpm++ 2m": "dpmpp_2m",
    "dpm++ 2m sde": "dpmpp_2m_sde",
    "dpm++ 2m sde heun": "dpmpp_2m_sde_heun",
    "dpm++ 3m sde": "dpmpp_3m_sde",
    "lcm": "lcm",
    "ddim": "ddim",
    "unipc": "uni_pc",
}
"""What user interfaces call them, in small letters. What follows there ("Karras", "Exponential") names the levels."""

_GRIDS = (" karras", " exponential", " automatic", " uniform", " sgm uniform")

_APART = {
    "dpm_adaptive": "it chooses its levels while it runs",
    "cfg_pp": "its step needs the unconditional prediction beside the guided one",
}


def from_k_diffusion(
    sampler: str,
    sigmas: Sequence[float],
    *,
    path: Path | AbstractDenoiser | None = None,
    mended: bool = False,
    **options: Any,
) -> Plan:
    """Return the plan of a sampler of k-diffusion or ComfyUI on explicit noise levels.

    Args:
        sampler: its name: "dpmpp_2m", "sample_dpmpp_2m", "euler_ancestral", "uni_pc_bh2", ... or what user interfaces call
            it, "DPM++ 2M Karras" (of which Karras are the `sigmas`). "sample_lms" is k-diffusion's, which steps to zero with
            its whole history; "lms" is ComfyUI's, which returns the data mean there.
        sigmas: levels s/a, noisiest first, as the sampler is given them; a closing zero is the data. On a flow path they are
            its times, as in ComfyUI.
        path: the path, or a denoiser, that the levels belong to; left out, an EDM path from the first to the last of them.
        mended: the right formula where the peer's slips.
        **options: options of the sampler's function (eta, s_noise, order, ...).

    Raises:
        UnknownName: no such sampler, or an option it does not have; the nearest are offered.
        BadValue: an option whose value cannot be honoured, or levels that do not fall.
    """
    name = _name(sampler)
    chosen = SAMPLERS[name]
    if unknown := sorted(set(options) - set(chosen.options)):
        raise UnknownName(f"option of {name}", unknown[0], chosen.options or ["no options"])
    values = [float(s) for s in sigmas]
    if len(values) < 2 or any(x <= y for x, y in zip(values, values[1:], strict=False)) or values[-1] < 0.0:
        raise BadValue(f"sigmas {values[:6]}", "at least two falling levels, the last of which may be 0", "[*levels, 0.0]")
    ladder = _ladder(values, path)
    written = chosen.write(ladder, {**chosen.options, **options}, mended)
    provenance = {
        "peer": "k-diffusion",
        "sampler": sampler,
        "sigmas": values,
        "options": {k: v for k, v in options.items() if not callable(v)},
        "mended": mended,
        "start_noise": 1.0,
    }
    return made(ladder.path, written.rows, written.basis, written.recipe, provenance, ladder.times[0])


def _name(sampler: str) -> str:
    if sampler in SAMPLERS:
        return sampler
    label = sampler.lower()
    for grid in _GRIDS:
        label = label.removesuffix(grid)
    if label in LABELS:
        return LABELS[label]
    if label == "dpm adaptive":
        sampler = "dpm_adaptive"
    name = sampler.removeprefix("sample_").removesuffix("_gpu")
    for part, why in _APART.items():
        if part in name:
            raise BadValue(f"sampler {sampler!r}", f"samplers that are tables; {why}", "sampler='dpmpp_2m'")
    if name not in SAMPLERS:
        raise UnknownName("sampler of k-diffusion", sampler, SAMPLERS)
    return name


def _ladder(values: list[float], path: Path | AbstractDenoiser | None) -> Ladder:
    if path is None:
        path = EDM(next(v for v in reversed(values) if v > 0.0), values[0])
    elif isinstance(path, AbstractDenoiser):
        path = path.path
    levels = values if path.name == "flow" else [path.time_of_sigma(v) if v > 0.0 else 0.0 for v in values]
    return Ladder(path, tuple(levels[:-1]), None if values[-1] == 0.0 else levels[-1])
