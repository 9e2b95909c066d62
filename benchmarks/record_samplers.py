"""Record what the samplers of k-diffusion and ComfyUI return, for the tests to compare plans with.

Their own code runs here, on a closed-form denoiser and on noise draws that the tests make again. Neither package is needed
by the tests: the recording is a file of numbers. What is loaded is k_diffusion/sampling.py of an unpacked wheel, and
comfy/k_diffusion and comfy/extra_samplers of a checkout of ComfyUI, with stand-ins for the rest of it. torchsde, torchdiffeq
and scipy have to be importable.

    python benchmarks/record_samplers.py --k-diffusion DIR [--comfyui DIR] --versions 0.1.1.post1 "WHERE FROM"
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import retrograde as rg

FILE = Path(__file__).parents[1] / "tests" / "files" / "samplers.v1.json"
SIGMAS = [*rg.grids.karras(rg.paths.EDM(0.03, 14.6), 9), 0.0]
SPLIT = {"dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"}
"""Samplers whose noise is a Brownian path by default."""

K_DIFFUSION: dict[str, list[dict[str, Any]]] = {
    "euler": [{}],
    "heun": [{}, {"s_churn": 6.0, "s_tmin": 0.05, "s_tmax": 10.0, "s_noise": 1.003}],
    "dpm_2": [{}],
    "euler_ancestral": [{}, {"eta": 0.4}, {"s_noise": 1.01}],
    "dpm_2_ancestral": [{}, {"eta": 0.6}],
    "lms": [{}, {"order": 2}],
    "dpm_fast": [{}],
    "dpmpp_2s_ancestral": [{}, {"eta": 0.5}],
    "dpmpp_sde": [{}, {"eta": 0.5}, {"r": 0.4}],
    "dpmpp_2m": [{}],
    "dpmpp_2m_sde": [{}, {"eta": 0.3}, {"solver_type": "heun"}],
    "dpmpp_3m_sde": [{}, {"eta": 0.0}, {"s_noise": 1.02}],
}
COMFYUI: dict[str, list[dict[str, Any]]] = K_DIFFUSION | {
    "dpmpp_2m_sde_heun": [{}],
    "ddpm": [{}],
    "lcm": [{}],
    "heunpp2": [{}],
    "ipndm": [{}, {"max_order": 2}],
    "ipndm_v": [{}, {"max_order": 3}, {"max_order": 2}],
    "deis": [{}, {"max_order": 4}],
    "res_multistep": [{}],
    "res_multistep_ancestral": [{}, {"eta": 0.5}],
    "gradient_estimation": [{}, {"ge_gamma": 1.5}],
    "er_sde": [{}, {"max_stage": 2}],
    "seeds_2": [{}, {"eta": 0.5}, {"solver_type": "phi_2"}],
    "seeds_3": [{}, {"eta": 0.0}],
    "exp_heun_2_x0": [{}],
    "exp_heun_2_x0_sde": [{}],
    "sa_solver": [{"tau_range": [6.0, 0.2]}, {"tau_range": [6.0, 0.2], "simple_order_2": True, "predictor_order": 2}],
    "sa_solver_pece": [{"tau_range": [6.0, 0.2]}],
    "uni_pc": [{}],
    "uni_pc_bh2": [{}],
}


class Draws:
    """Normal draws in the order they are asked for: draw k of the tests is draw k here."""

    def __init__(self) -> None:
        self.generator, self.last = torch.Generator().manual_seed(3), (math.nan, math.nan, torch.zeros(()))

    def next(self, *_: Any, **__: Any) -> Tensor:
        return torch.randn((3, 2), generator=self.generator, dtype=torch.float64)

    def brownian(self, sigma: Any, sigma_next: Any) -> Tensor:
        """The scaled increment of one Brownian path in sigma; a step's contains that of its first part."""
        start, end = float(sigma), float(sigma_next)
        if self.last[0] == start and end < self.last[1]:
            part = (start - self.last[1]) / (start - end)
            noise = math.sqrt(part) * self.last[2] + math.sqrt(1.0 - part) * self.next()
        else:
            noise = self.next()
        self.last = (start, end, noise)
        return noise


def mixture() -> rg.oracles.GaussianMixture:
    """The mixture of tests/conftest.py."""
    return rg.oracles.GaussianMixture(
        rg.paths.EDM(0.001, 80.0),
        means=torch.tensor([[1.0, 0.5], [-0.8, 0.9], [0.1, -1.1]]),
        covariances=torch.tensor([[[0.4, 0.1], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.5]], [[0.35, -0.1], [-0.1, 0.4]]]),
        weights=torch.tensor([0.5, 0.3, 0.2]),
    )


class Model:
    """The denoiser as both packages call it, and what ComfyUI looks for inside a model."""

    def __init__(self) -> None:
        self.den = mixture()
        scaling = types.SimpleNamespace(noise_scaling=lambda sigma, noise, latent: latent + sigma * noise)
        patcher = types.SimpleNamespace(get_model_object=lambda name: scaling)
        self.inner_model = types.SimpleNamespace(
            model_patcher=patcher, inner_model=types.SimpleNamespace(model_sampling=scaling)
        )

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return self.den.predict(x, float(sigma.flatten()[0])).data


def module(name: str, file: Path | None = None, **members: Any) -> types.ModuleType:
    """Load a file as a module of this name, or make a stand-in with the given members."""
    if file is None:
        made = types.ModuleType(name)
        made.__dict__.update(members, __path__=[])
        sys.modules[name] = made
        return made
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, file
    assert spec.loader is not None, file
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


def append_dims(x: Tensor, target: int) -> Tensor:
    return x[(...,) + (None,) * (target - x.ndim)]


def k_diffusion(folder: Path) -> Callable[[str], Callable[..., Tensor]]:
    module("k_diffusion", utils=module("k_diffusion.utils", append_dims=append_dims))
    sampling = module("k_diffusion.sampling", folder / "k_diffusion" / "sampling.py")
    return lambda name: getattr(sampling, f"sample_{name}")


def comfyui(folder: Path) -> Callable[[str], Callable[..., Tensor]]:
    root = folder / "comfy"
    module("comfy")
    for name, members in {
        "model_patcher": {},
        "model_sampling": {"CONST": type("CONST", (), {})},
        "memory_management": {},
        "utils": {"model_trange": lambda *a, **k: range(*a)},
        "k_diffusion": {},
        "extra_samplers": {},
    }.items():
        setattr(sys.modules["comfy"], name, module(f"comfy.{name}", **members))
    package = sys.modules["comfy.k_diffusion"]
    package.utils = module("comfy.k_diffusion.utils", append_dims=append_dims)  # type: ignore[attr-defined]
    for name in ("deis", "sa_solver"):
        setattr(package, name, module(f"comfy.k_diffusion.{name}", root / "k_diffusion" / f"{name}.py"))
    sampling = module("comfy.k_diffusion.sampling", root / "k_diffusion" / "sampling.py")
    uni_pc = module("comfy.extra_samplers.uni_pc", root / "extra_samplers" / "uni_pc.py")
    others = {"uni_pc": uni_pc.sample_unipc, "uni_pc_bh2": uni_pc.sample_unipc_bh2}
    return lambda name: others.get(name) or getattr(sampling, f"sample_{name}")


def end_of(function: Callable[..., Tensor], name: str, options: dict[str, Any]) -> Tensor:
    draws = Draws()
    torch.randn_like = draws.next  # what the samplers with churn draw by
    x = 14.6 * torch.randn((3, 2), generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    sigmas = torch.tensor(SIGMAS, dtype=torch.float64)
    keywords = {k: v for k, v in options.items() if k != "tau_range"}
    if "tau_range" in options:
        high, low = options["tau_range"]
        keywords["tau_func"] = lambda sigma: 1.0 if high >= float(sigma) >= low else 0.0
    if "noise_sampler" in inspect.signature(function).parameters:
        keywords["noise_sampler"] = draws.brownian if name in SPLIT else lambda sigma, sigma_next: draws.next()
    if name.startswith("uni_pc"):  # it takes no double precision
        return function(Model(), x.float(), sigmas.float(), {}, disable=True, **keywords)
    if name == "dpm_fast":
        return function(Model(), x, SIGMAS[-2], SIGMAS[0], len(SIGMAS) - 1, disable=True, **keywords)
    return function(Model(), x, sigmas, {}, disable=True, **keywords)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k-diffusion", type=Path, required=True)
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--versions", nargs="+", default=[])
    options = parser.parse_args()
    sides = [("k-diffusion", k_diffusion(options.k_diffusion), K_DIFFUSION)]
    if options.comfyui:
        sides.append(("ComfyUI", comfyui(options.comfyui), COMFYUI))
    made = []
    for package, get, cases in sides:
        for name, variants in cases.items():
            for variant in variants:
                end = end_of(get(name), name, variant)
                made.append({"package": package, "sampler": name, "options": variant, "end": end.tolist()})
    stored = {
        "versions": dict(zip((package for package, _, _ in sides), options.versions, strict=False)),
        "command": "python benchmarks/record_samplers.py --k-diffusion DIR --comfyui DIR --versions ...",
        "sigmas": SIGMAS,
        "runs": made,
    }
    FILE.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print(f"{len(made)} runs into {FILE.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
