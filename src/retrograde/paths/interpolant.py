"""Interpolant paths: straight (rectified flow) and trigonometric."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from retrograde import systems
from retrograde.paths.path import Time, Unanchored, library


@dataclasses.dataclass(frozen=True)
class Flow(Unanchored):
    """Straight path x_t = (1 - t) x_0 + t eps; the velocity is eps - x_0.

    Reference: Liu et al., Flow Straight and Fast, 2022, arXiv 2209.03003; Lipman et al., Flow Matching for Generative
    Modeling, 2022, arXiv 2210.02747. Time runs from data (0) to noise (1), as in Esser et al., 2024, arXiv 2403.03206.
    """

    name: ClassVar[str] = "flow"
    t_min: float = 1e-3
    t_max: float = 1.0

    def a(self, t: Time) -> Time:
        return 1.0 - t

    def s(self, t: Time) -> Time:
        return 1.0 * t

    def a_dot(self, t: Time) -> Time:
        return 0.0 * t - 1.0

    def s_dot(self, t: Time) -> Time:
        return 0.0 * t + 1.0

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        return sigma / (1.0 + sigma)


@dataclasses.dataclass(frozen=True)
class Trigonometric(Unanchored):
    """Variance-preserving interpolant x_t = cos(pi t/2) x_0 + sin(pi t/2) eps.

    Reference: Albergo and Vanden-Eijnden, Building Normalizing Flows with Stochastic Interpolants, 2022, arXiv 2209.15571.
    """

    name: ClassVar[str] = "trigonometric"
    t_min: float = 1e-3
    t_max: float = 1.0

    def a(self, t: Time) -> Time:
        # sin of the complement: exactly zero at t = 1, where cos(pi/2) is not
        return library(t).sin(0.5 * math.pi * (1.0 - t))

    def s(self, t: Time) -> Time:
        return library(t).sin(0.5 * math.pi * t)

    def a_dot(self, t: Time) -> Time:
        return -0.5 * math.pi * self.s(t)

    def s_dot(self, t: Time) -> Time:
        return 0.5 * math.pi * self.a(t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        return library(sigma).atan(sigma) * (2.0 / math.pi)


for _system in (
    systems.System(
        title="Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
        authors=("Xingchao Liu", "Chengyue Gong", "Qiang Liu"),
        year=2022,
        arxiv="2209.03003",
        home="paths",
        call="rg.plan('interpolant_ode', rg.paths.Interpolant(scale=0.0, t_max=1.0), nfe=10, grid='uniform')",
        test="tests/paths/test_rectified_flow.py::test_between_round_gaussians_the_map_is_the_scaling",
    ),
    systems.System(
        title="Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
        authors=("Xingchao Liu", "Chengyue Gong", "Qiang Liu"),
        year=2022,
        arxiv="2209.03003",
        home="paths",
        call="rg.plan('euler', rg.paths.Flow(), nfe=10)",
        test="tests/recipes/test_interpolant.py::test_without_noise_it_is_rectified_flow",
    ),
    systems.System(
        title="Flow Matching for Generative Modeling",
        authors=("Yaron Lipman", "Ricky T. Q. Chen", "Heli Ben-Hamu", "Maximilian Nickel", "Matt Le"),
        year=2022,
        arxiv="2210.02747",
        home="paths",
        call="rg.Denoiser(network, rg.paths.Flow(), predicts='velocity', shape=shape)",
        test="tests/laws/test_three_views.py::test_networks_of_every_kind_learn_by_the_same_gradient",
    ),
    systems.System(
        title="Building Normalizing Flows with Stochastic Interpolants",
        authors=("Michael S. Albergo", "Eric Vanden-Eijnden"),
        year=2022,
        arxiv="2209.15571",
        home="paths",
        call="rg.plan('euler', rg.paths.Trigonometric(), nfe=10)",
        test="tests/laws/test_three_views.py::test_densities_follow_the_flow_and_every_sde",
    ),
):
    systems.register(_system)
