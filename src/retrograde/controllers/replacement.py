"""Replacement: after every row the coordinates that are known are put back, under the noise of the level."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue, PlanError, ShapeError
from retrograde.noise import Noise
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.run import State

_STREAM = -26.0  # of its own: the noise of what is known is not that of the rows


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Replacement:
    """The controller that puts back what is known (see `replacement`); it remembers nothing."""

    path: Path
    known: Tensor
    mask: Tensor
    noise: Noise
    basis: Tensor | None
    consumes: frozenset[str] = frozenset()

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...]:
        """Leave the rows."""
        return remaining

    def correct(self, state: State) -> Tensor:
        """Return the state with the known coordinates of its level, a y + s eps; at the data they are y."""
        x, known = state.x_t, self.known.to(state.x_t)
        if x.shape != known.shape:
            raise ShapeError(f"states {list(x.shape)} and y {list(known.shape)}", "one y for each item", f"n={len(known)}")
        if state.prediction is not None and state.prediction.path != self.path:
            own = state.prediction.path.name
            raise PlanError(f"a plan on {own!r}", f"one on {self.path.name!r}", "replacement(plan.path, ...)")
        if state.t is not None:
            eps = self.noise.draw(x.shape[1:], (state.t, _STREAM), state.index, x.dtype, x.device)
            known = self.path.a(state.t) * known + self.path.s(state.t) * eps
        mask = self.mask.to(x.device)
        if self.basis is None:
            return torch.where(mask, known, x)
        U = self.basis.to(x)
        off = torch.einsum("nk...,kj->nj...", known - x, U)
        return x + torch.einsum("nj...,kj->nk...", torch.where(mask, off, 0.0), U)


def replacement(
    path: Path | AbstractDenoiser,
    y: Tensor,
    mask: Tensor,
    *,
    basis: Tensor | None = None,
    seed: int = 0,
    items: Sequence[int] | None = None,
) -> Replacement:
    """Return the controller that samples data of which some coordinates are known, with a network that was not told so.

    After every row the known coordinates are put back, with fresh noise of the level the row made; at the data, as they are:

        x <- x + U M U^T (a y + s eps - x),

    M the mask and U an orthogonal basis, or the identity. That is inpainting; with a basis of colours whose first column is
    grey, and that coordinate known, it colours a grey picture. It goes with any plan, `sample(denoiser, plan, n,
    controllers=[it])`, and best with one that has Langevin steps, such as "predictor_corrector":

    The samples are not exactly those of p(x_0 | y), since the network is not asked at states that y made likely. They are
    where the rest does not depend on what is known. Of two standard Gaussians with correlation r, in the limit of small
    steps of the reverse SDE on the path x_0 + s eps, the unknown one has the mean y (1 - sqrt(1 - r^2))/r in place of r y,
    half of it for small r, and the variance (1 - r^2) atanh(r)/r in place of 1 - r^2. Langevin steps forget where the
    state came from, and their law at a level tends to the exact one as the level falls.

    The noise is that of the level reached; the authors' code takes that of the level before the step.

    Args:
        path: that of the plan, or a denoiser on it.
        y: data, one for each item of the run, [n, *shape]; read only where it is known.
        mask: true where y is known, broadcasts against [n, *shape]; with `basis` it is one of coordinates.
        basis: U, orthonormal columns [k, k], for the first axis of an item (k channels of an image).
        seed: of the noise of what is known.
        items: numbers of the items, 0..n-1 by default, as the run has them.

    Raises:
        PlanError: a path with an anchor, of which a run makes its own use.
        BadValue: a path whose noise is not Gaussian, a basis that is not orthogonal, or as many items as y has not.
        ShapeError: mask or basis do not fit y. When it runs also: another number of items than y has.

    Reference: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2020, arXiv
    2011.13456, section 5.
    """
    path = path if isinstance(path, Path) else path.path
    numbers = range(len(y)) if items is None else items
    if path.anchored:
        raise PlanError(f"replacement on the anchored path {path.name!r}", "a path without anchor", "rg.paths.VP()")
    if math.isfinite(path.degrees):
        raise BadValue(f"noise of {path.degrees:g} degrees of freedom", "Gaussian noise", "rg.paths.EDM()")
    if len(numbers) != len(y):
        raise BadValue(f"{len(numbers)} items for {len(y)} y", "one number for each", "leave items out")
    if basis is not None:
        k = y.shape[1]
        if basis.shape != (k, k):
            raise ShapeError(f"a basis of shape {list(basis.shape)}", f"[{k}, {k}]", "one column for each coordinate")
        if not torch.allclose(basis.double().T @ basis.double(), torch.eye(k, dtype=torch.float64), atol=1e-5):
            raise BadValue("a basis with U^T U != I", "orthonormal columns", "pass torch.linalg.qr(basis)[0]")
    try:
        mask = mask.bool().expand(y.shape)
    except RuntimeError as error:
        allowed = f"one that broadcasts to {list(y.shape)}"
        raise ShapeError(f"a mask of shape {list(mask.shape)}", allowed, "shape it as an item") from error
    return Replacement(path, y, mask, Noise(seed, numbers), basis)


systems.register(
    systems.System(
        title="Score-Based Generative Modeling through Stochastic Differential Equations",
        authors=("Yang Song", "Jascha Sohl-Dickstein", "Diederik P. Kingma", "Abhishek Kumar", "Stefano Ermon", "Ben Poole"),
        year=2020,
        arxiv="2011.13456",
        home="paths",
        call="rg.sample(denoiser, plan, n=len(y), controllers=[rg.controllers.replacement(plan.path, y, mask)])",
        test="tests/controllers/test_replacement.py::test_the_bias_is_that_of_the_closed_form",
    )
)
