"""Stochastic interpolants: paths between two laws, neither of which need be noise."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from retrograde import systems
from retrograde.errors import BadValue, UnknownName
from retrograde.paths.path import Path, Time, bisect, library

SHAPES = ("linear", "trigonometric", "encoding_decoding")
NOISES = ("bridge", "parabola", "sine")


@dataclasses.dataclass(frozen=True)
class Interpolant(Path):
    """x_t = a(t) x_0 + b(t) y + s(t) eps between data x_0 (t = 0) and y (t = 1), with latent noise, zero at both ends.

    Shapes: "linear" a = 1 - t, b = t; "trigonometric" a = cos(pi t/2), b = sin(pi t/2); "encoding_decoding" a = cos^2(pi t)
    up to t = 1/2 and b = cos^2(pi t) from there, so that all passes through noise. Noises: "bridge" scale sqrt(t (1 - t)),
    "parabola" scale t (1 - t), "sine" scale sin^2(pi t), for "encoding_decoding" alone: elsewhere its s/a would fall again.

    y is the anchor, where a run starts. A denoiser that knows it (a paired problem, a bridge) answers as on any anchored
    path. One that does not answers with two quantities, for instance the drift and the noise, as `oracles.Coupled` and
    `denoisers.TwoHeads` do; the recipes `interpolant_ode`, `interpolant_heun` and `interpolant_sde` read both.

    Args:
        scale: of the noise; 0 is rectified flow between two laws, for grids in time.

    Raises:
        UnknownName: another shape or noise.
        BadValue: a negative scale, or "sine" on another shape.

    Reference: Albergo, Boffi, Vanden-Eijnden, Stochastic Interpolants: A Unifying Framework for Flows and Diffusions, 2023,
    arXiv 2303.08797.
    """

    name: ClassVar[str] = "interpolant"
    shape: str = "linear"
    noise: str = "bridge"
    scale: float = 1.0
    t_min: float = 1e-3
    t_max: float = 0.999

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise UnknownName("shape", self.shape, SHAPES)
        if self.noise not in NOISES:
            raise UnknownName("noise", self.noise, NOISES)
        if self.scale < 0.0 or (self.noise == "sine" and self.shape != "encoding_decoding"):
            given = f"noise={self.noise!r}, scale={self.scale} on shape {self.shape!r}"
            raise BadValue(given, "scale >= 0; 'sine' on 'encoding_decoding' alone", "noise='bridge', scale=1.0")

    def a(self, t: Time) -> Time:
        if self.shape == "linear":
            return 1.0 - t
        if self.shape == "trigonometric":
            return library(t).sin(0.5 * math.pi * (1.0 - t))
        return self._early(t, library(t).cos(math.pi * t) ** 2)

    def b(self, t: Time) -> Time:
        if self.shape == "linear":
            return 1.0 * t
        if self.shape == "trigonometric":
            return library(t).sin(0.5 * math.pi * t)
        return self._early(1.0 - t, library(t).cos(math.pi * t) ** 2)

    def a_dot(self, t: Time) -> Time:
        if self.shape == "linear":
            return 0.0 * t - 1.0
        if self.shape == "trigonometric":
            return -0.5 * math.pi * self.b(t)
        return self._early(t, -math.pi * library(t).sin(2.0 * math.pi * t))

    def b_dot(self, t: Time) -> Time:
        if self.shape == "linear":
            return 0.0 * t + 1.0
        if self.shape == "trigonometric":
            return 0.5 * math.pi * self.a(t)
        return self._early(1.0 - t, -math.pi * library(t).sin(2.0 * math.pi * t))

    def _early(self, t: Time, value: Time) -> Time:
        """`value` for t < 1/2, zero later."""
        if isinstance(t, Tensor):
            return torch.where(t < 0.5, value, 0.0 * value)
        return value if t < 0.5 else 0.0 * value

    def s(self, t: Time) -> Time:
        if self.noise == "bridge":
            return self.scale * library(t).sqrt(t * (1.0 - t))
        if self.noise == "parabola":
            return self.scale * t * (1.0 - t)
        return self.scale * library(t).sin(math.pi * t) ** 2

    def s_dot(self, t: Time) -> Time:
        if self.scale == 0.0:
            return 0.0 * t
        if self.noise == "bridge":
            return 0.5 * self.scale * (1.0 - 2.0 * t) / library(t).sqrt(t * (1.0 - t))
        if self.noise == "parabola":
            return self.scale * (1.0 - 2.0 * t)
        return self.scale * math.pi * library(t).sin(2.0 * math.pi * t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        if self.scale == 0.0:
            raise BadValue("a noise level on an interpolant without noise", "times", "grid='uniform', or scale > 0")
        top = 0.5 if self.shape == "encoding_decoding" else 1.0
        # s = sigma a, which also holds where a is zero
        return bisect(lambda t, level: self.s(t) - level * self.a(t), sigma, 0.0, top)


systems.register(
    systems.System(
        title="Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
        authors=("Michael S. Albergo", "Nicholas M. Boffi", "Eric Vanden-Eijnden"),
        year=2023,
        arxiv="2303.08797",
        home="paths",
        call="rg.plan('interpolant_sde', rg.paths.Interpolant(), nfe=50, diffusion=1.0)",
        test="tests/paths/test_two_sided.py::test_every_diffusion_reaches_the_data",
    )
)
