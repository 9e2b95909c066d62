"""A first estimate and the diffusion around it, trained together."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from retrograde import systems
from retrograde.denoisers import Denoiser
from retrograde.errors import BadValue, ShapeError
from retrograde.train.objective import loss


def regeneration_loss(
    denoiser: Denoiser,
    predictor: Callable[[Tensor], Tensor],
    x_0: Tensor,
    y: Tensor,
    t: Tensor,
    eps: Tensor,
    share: float = 0.5,
    frozen: bool = False,
    measure: str | None = None,
) -> Tensor:
    """Return the loss of a predictor D and of a denoiser whose anchor is what D makes of y, for every item.

        share/2 mean |D(y) - x_0|^2 + (1 - share)/2 loss(x_t),   x_t = a x_0 + b D(y) + s eps,

    with gradients of the second part through the anchor too. A denoiser with a condition is told y by it, beside the
    anchor (one without hears of the estimate alone). To restore, the estimate is the anchor:

        rg.sample(denoiser, plan, anchor=predictor(y), condition={"noisy": y})

    What the posterior leaves open about x_0 given D(y) is left to the diffusion, so its start b D(y) + s eps is near its
    end; with D(y) = y it is the training of speech enhancement without a first stage. Since |D(y) - x_0|^2 is least at the
    mean of the posterior, the run starts at this mean.

    Shapes: x_0, y, eps [n, *shape], t [n] path times -> [n]; the predictor maps [n, *shape] to [n, *shape].

    Args:
        share: weight of the estimate's own error, in [0, 1].
        frozen: leave the predictor alone: no gradient reaches it.
        measure: the quantity whose error the second part takes, as in `loss`; "noise" is published.

    Raises:
        BadValue: a share outside [0, 1], or a denoiser with several conditions.
        ShapeError: an estimate that is not shaped as the data.
        PlanError: a path without an anchor.

    Reference: Lemercier, Richter, Welker, Gerkmann, StoRM: A Diffusion-based Stochastic Regeneration Model for Speech
    Enhancement and Dereverberation, 2022, arXiv 2212.11851.
    """
    if not 0.0 <= share <= 1.0 or len(denoiser.conditions) > 1:
        given = f"share={share}, conditions {sorted(denoiser.conditions)}"
        raise BadValue(given, "0 <= share <= 1, and one condition or none", "share=0.5, conditions={'noisy': ...}")
    estimate = predictor(y)
    if estimate.shape != x_0.shape:
        raise ShapeError(
            f"an estimate of shape {list(estimate.shape)}", f"{list(x_0.shape)}, as the data", "predictor(y) shaped as x_0"
        )
    estimate = estimate.detach() if frozen else estimate
    told = dict.fromkeys(denoiser.conditions, y)
    missed = (estimate - x_0).square().flatten(1).mean(1)
    return 0.5 * share * missed + 0.5 * (1.0 - share) * loss(denoiser, x_0, t, eps, told, measure, estimate)


systems.register(
    systems.System(
        title="StoRM: A Diffusion-based Stochastic Regeneration Model for Speech Enhancement and Dereverberation",
        authors=("Jean-Marie Lemercier", "Julius Richter", "Simon Welker", "Timo Gerkmann"),
        year=2022,
        arxiv="2212.11851",
        home="restore",
        call="rg.train.regeneration_loss(den, predictor, x_0, y, t, eps).mean()",
        test="tests/train/test_regenerate.py::test_the_diffusion_makes_the_variance_that_the_estimate_lacks",
    )
)
