"""What a row does to the log-weights of particles, whose proposal or whose target is not a law of one model.

Leading the particles by a score S towards a law p_t ~ prod_i q_{i,t}^{w_i}, with T = sum_i w_i grad log q_{i,t},

    d log w = (v/2) (|T|^2 - sum_i w_i |grad log q_i|^2)  +  (sum_i w_i - 1) d log(a_t/a_next)
              +  log N(x'; m_T, c^2) - log N(x'; m_S, c^2),

where v is the variance that the path adds between the two levels, and m_S, m_T are the means of the row with one score or
the other, x' = m_S + c eps. The first two terms are the rate of Feynman and Kac (Skreta et al., 2025), the second alike for
all particles, so that it counts in the evidence alone. They hold however much noise a row draws, if a single model would
keep its law: the drift holds (1 + c^2/v)/2 of v T then, and the divergence of T cancels. With less noise than the reversed
process particles crowd together and weights spread, until without any nothing is left to resample; so
"euler_maruyama" is the recipe for a product.

Where the exponents sum to W > 1, the rate grows with |x|^2 all through the high levels, and the error in the end has a
finite variance only if c^2/v > 2 (W - 1)/W: for noise alone (grad log q = -x, v = 1 per unit of time) what a state is yet to
gain is exp((W - 1) x^2 v/(2 c^2)), and its square has to be integrable under exp(-W x^2/2). The reversed process, c^2 = v,
is on the border at W = 2 and beyond it above, so there the error falls more slowly than 1/sqrt(K). The last terms are the
likelihood ratio of two kernels (Wu et al., 2023), zero where S is T.

A discretized rate is exact in the limit of many rows; the likelihood ratio of the kernels is exact in every row.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import Prediction
from retrograde.denoisers.prediction import conversion
from retrograde.errors import PlanError
from retrograde.paths import Path
from retrograde.state import State

systems.register(
    systems.System(
        title="Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts",
        authors=(
            "Marta Skreta",
            "Tara Akhound-Sadegh",
            "Viktor Ohanesian",
            "Roberto Bondesan",
            "Alán Aspuru-Guzik",
            "Arnaud Doucet",
            "Rob Brekelmans",
            "Alexander Tong",
            "Kirill Neklyudov",
        ),
        year=2025,
        arxiv="2503.02819",
        home="compose",
        call="rg.sample(rg.guide.anneal(denoiser, 3.0), plan, n=64, particles=rg.particles.Weighted(64))",
        test="tests/particles/test_increments.py::test_corrected_particles_have_the_law_and_uncorrected_ones_do_not",
    )
)

_ROUNDING = 1e-4
"""Difference of two scores, in units of the noise, that a float32 network leaves between equal laws."""


def factors(prediction: Prediction, exponent: Any = 1.0) -> list[tuple[Any, Prediction]]:
    """Return the laws of which the target of a prediction is the product, each with its exponent.

    Parts may have parts: a product of guided models is the product of all theirs.
    """
    if not prediction.exponents:
        return [(exponent, prediction)]
    found = []
    for name, power in prediction.exponents.items():
        found += factors(prediction.parts[name], exponent * power)
    return found


def target(prediction: Prediction) -> Prediction:
    """Return the prediction of the law that weighted particles aim at: of score sum_i w_i grad log q_i."""
    if not prediction.exponents:
        return prediction
    laws = factors(prediction)
    if len(laws) == 1 and laws[0][0] == 1.0:
        return laws[0][1]
    score = sum(exponent * law.score.double() for exponent, law in laws)
    value = torch.as_tensor(score).to(prediction.value.dtype)
    return Prediction(prediction.x_t, prediction.t, prediction.path, value, "score", anchor=prediction.anchor)


def increment(state: State) -> Tensor | None:
    """Return what the log-weights grow by in a row, [batch] float64, or None where nothing changes.

    Raises:
        PlanError: the row moves particles away from their target in a way for which there is no weight: without noise, on
            more than one prediction, or to a higher level.
    """
    prediction, row = state.prediction, state.row
    if prediction is None:
        return None
    gained = None
    if row.time is not None and prediction.log_weight is not None:
        gained = prediction.log_weight.detach().double()
    moves = row.next_time is not None and row.outputs and row.next_time != prediction.t
    if not prediction.exponents or not moves:
        return gained
    if row.renoise or isinstance(prediction.t, Tensor):
        raise PlanError(
            f"row {state.index}, from t={prediction.t} to t={row.next_time}, for particles of a law that is made of others",
            "rows that fall, with one level for all items",
            "use a recipe without churn or restarts, such as 'euler_maruyama' or 'ddpm'",
        )
    moved = _moved(state, prediction)
    return moved if gained is None else gained + moved


def variance(path: Path, t: float, t_next: float) -> float:
    """Return the variance that the path adds from t_next to t, s_t^2 - (a_t/a_next)^2 s_next^2."""
    return path.s(t) ** 2 - (path.a(t) / path.a(t_next) * path.s(t_next)) ** 2


def _moved(state: State, prediction: Prediction) -> Tensor:
    path, t, t_next = prediction.path, float(prediction.t), float(state.row.next_time or 0.0)
    laws = [(float(exponent), law.score.double()) for exponent, law in factors(prediction)]
    aim = torch.as_tensor(sum(exponent * score for exponent, score in laws))
    rate = _square(aim) - torch.as_tensor(sum(exponent * _square(score) for exponent, score in laws))
    gained = 0.5 * variance(path, t, t_next) * rate
    total = sum(exponent for exponent, _ in laws)
    if not math.isclose(total, 1.0):
        gained = gained + (total - 1.0) * aim[0].numel() * math.log(path.a(t) / path.a(t_next))
    return gained + _kernels(state, prediction, aim)


def _kernels(state: State, prediction: Prediction, aim: Tensor) -> Tensor:
    """Return log N(x'; m_T, c^2) - log N(x'; m_S, c^2) = (g/c) <eps, T - S> - (g/c)^2 |T - S|^2 / 2."""
    row, plan = state.row, state.plan
    away = aim - prediction.score.double()
    one_step = len(row.outputs) == 1 and row.correction is None and isinstance(row.outputs[0], float) and plan is not None
    noisy = len(row.noises) == 1 and isinstance(row.noises[0], float) and row.noises[0] > 0.0
    if plan is None or not one_step or not noisy:
        size = (away[0].numel() ** 0.5) / prediction.path.s(float(prediction.t)) + _square(aim).sqrt()
        if bool((_square(away).sqrt() > _ROUNDING * size).any()):
            raise PlanError(
                f"row {state.index} of {len(row.outputs)} outputs and {len(row.noises)} noises, led away from the "
                "particles' target",
                "rows that make the state of one prediction and fresh noise",
                "use a stochastic one-step recipe, such as 'euler_maruyama', 'ddpm' or 'euler_ancestral'",
            )
        return torch.zeros(len(away), dtype=torch.float64, device=away.device)
    c_value = conversion(prediction.path, prediction.t, "score", plan.basis)[1]
    ratio = float(row.outputs[0]) * float(c_value) / float(row.noises[0])  # type: ignore[arg-type]
    eps = state.memory.noises[0].double()
    return ratio * (eps * away).flatten(1).sum(1) - 0.5 * ratio**2 * _square(away)


def _square(score: Tensor) -> Tensor:
    return score.square().flatten(1).sum(1)
