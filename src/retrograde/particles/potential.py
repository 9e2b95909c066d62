"""What particles are weighed by beside the model: a function of the data mean, known before the sample is finished."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.errors import BadValue, ShapeError, UnknownName
from retrograde.particles.weights import tempered

FORMS = ("difference", "max", "sum")
PotentialFunction = Callable[[Tensor, "float | None"], Tensor]
"""From data means [batch, *shape] and the path time (None for finished samples) to one number for each item, [batch]."""

_HELD, _GAIN, _EXPONENT = "particles/held", "particles/gain", "particles/exponent"


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Potential:
    """A tilt of the model's law, p(x_0) exp(scale r(x_0)), foreseen on the way by r of the data mean D.

    After the k-th evaluation the particles have been given exp(U_k) in all, and in the end exp(scale r(x_0)), so that
    every form has the same law of weighted samples as the number of particles grows. They differ in who survives on the
    way:

        "difference":  U_k = scale r(D_k)
        "max":         U_k = scale sum_{j <= k} max_{i <= j} r(D_i)
        "sum":         U_k = scale sum_{j <= k} sum_{i <= j} r(D_i)

    With `tempering` the difference form is weakened, U_k = b_k scale r(D_k), by the largest b_k (never falling, 1 in the
    end) that leaves the particles an effective sample size of `tempering` times their number.

    Attributes:
        function: r, of data means [batch, *shape] and the path time, None for the finished sample; [batch].
        scale: how strong; 1 / temperature.
        form: "difference", "max" or "sum".
        tempering: share of the effective sample size to keep, in (0, 1); None for no tempering.

    Raises:
        UnknownName: another form.
        BadValue: a scale that is not finite, or a tempering outside (0, 1) or of another form than the difference.

    Reference: Singhal, Horvitz, Teehan, Ren, Yu, McKeown, Ranganath, A General Framework for Inference-time Scaling and
    Steering of Diffusion Models, 2025, arXiv 2501.06848. (Their code forgets the weights of a row at which it does not
    resample, and closes the max form with the largest reward in place of the last; here neither.)
    """

    function: PotentialFunction
    scale: float = 1.0
    form: str = "difference"
    tempering: float | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UnknownName("form of a potential", self.form, FORMS)
        if not math.isfinite(self.scale):
            raise BadValue(f"scale={self.scale}", "a finite number", "scale=1.0")
        if self.tempering is not None and (not 0.0 < self.tempering < 1.0 or self.form != "difference"):
            given = f"tempering={self.tempering} of the form {self.form!r}"
            raise BadValue(given, "a share in (0, 1) of the form 'difference'", "tempering=0.5, form='difference'")

    def increment(
        self, mean: Tensor, t: float | None, held: Mapping[str, Tensor], log_weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the log-weights [S, K] grow by, [S K] float64, and what to remember of it.

        Raises:
            ShapeError: the function returned something other than one number for each item.
        """
        gain = self.function(mean, t)
        if gain.shape != mean.shape[:1]:
            raise ShapeError(
                f"a potential of shape {list(gain.shape)} for {len(mean)} particles",
                "one number for each, [batch]",
                "sum over the axes of an item: .flatten(1).sum(1)",
            )
        gain = self.scale * gain.detach().double()
        before = held.get(_HELD, torch.zeros_like(gain))
        left: dict[str, Tensor] = {}
        if t is None:
            total = gain
        elif self.form == "difference":
            total = gain
            if self.tempering is not None:
                least = held.get(_EXPONENT, torch.zeros_like(gain)).view(log_weights.shape)[..., 0]
                free = log_weights - before.view(log_weights.shape)
                size = max(1.0, self.tempering * log_weights.shape[-1])
                exponent = tempered(free, gain.view(log_weights.shape), size, least)
                left[_EXPONENT] = exponent[..., None].expand(log_weights.shape).reshape(-1)
                total = left[_EXPONENT] * gain
        else:
            last = held.get(_GAIN)
            if last is not None:
                gain = torch.maximum(gain, last) if self.form == "max" else gain + last
            left[_GAIN] = gain
            total = before + gain
        return total - before, {_HELD: total, **left}


systems.register(
    systems.System(
        title="A General Framework for Inference-time Scaling and Steering of Diffusion Models",
        authors=(
            "Raghav Singhal",
            "Zachary Horvitz",
            "Ryan Teehan",
            "Mengye Ren",
            "Zhou Yu",
            "Kathleen McKeown",
            "Rajesh Ranganath",
        ),
        year=2025,
        arxiv="2501.06848",
        home="search",
        call="rg.particles.Weighted(16, rg.particles.Potential(function, scale=10.0, form='max'))",
        test="tests/particles/test_weighted.py::test_particles_with_a_potential_have_the_tilted_law",
    )
)
systems.register(
    systems.System(
        title=("Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft Value-Based Decoding"),
        authors=(
            "Xiner Li",
            "Yulai Zhao",
            "Chenyu Wang",
            "Gabriele Scalia",
            "Gokcen Eraslan",
            "Surag Nair",
            "Tommaso Biancalani",
            "Shuiwang Ji",
            "Aviv Regev",
            "Sergey Levine",
            "Masatoshi Uehara",
        ),
        year=2024,
        arxiv="2408.08252",
        home="search",
        call="rg.particles.Weighted(16, potential, scheme='one', threshold=1.0)",
        test="tests/particles/test_weighted.py::test_one_of_several_children_in_every_row_has_the_tilted_law",
    )
)
