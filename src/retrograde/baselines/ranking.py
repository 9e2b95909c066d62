"""A predictor that ranks programs of solvers from those that were scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from retrograde.baselines.programs import CHOICES, Schedule


class Predictor(nn.Module):
    """Ranks schedules: an LSTM over the steps' levels and decisions, taught by pairs which of two is better."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        features = 3 + sum(map(len, CHOICES.values()))
        self.steps, self.last = nn.LSTM(features, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return a score for each schedule, [n], from features [n, steps, k]."""
        return self.last(self.steps(features)[0][:, -1])[:, 0]

    def teach(self, features: Tensor, scores: Tensor, generator: torch.Generator, rounds: int = 120) -> None:
        """Learn from pairs of known schedules: softplus of how much more the worse one is liked."""
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        for _ in range(rounds):
            one, other = torch.randint(len(scores), (2, 256), generator=generator)
            made = self(features)
            sign = torch.sign(scores[one] - scores[other])
            loss = nn.functional.softplus(-sign * (made[one] - made[other]))[sign != 0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def described(schedules: Sequence[Schedule], lams: Sequence[float]) -> Tensor:
    """Return the features of schedules, [n, steps, k]: levels and steps in half the log-SNR, and what is decided."""
    scale = max(abs(lams[0] - lams[-1]), 1e-9)
    return torch.tensor(
        [
            [
                [
                    (lams[here] - lams[0]) / scale,
                    (lams[there] - lams[0]) / scale,
                    (lams[there] - lams[here]) / scale,
                    *(float(getattr(step, name) == one) for name, every in CHOICES.items() for one in every),
                ]
                for here, there, step in zip(schedule.places, schedule.places[1:], schedule.steps, strict=False)
            ]
            for schedule in schedules
        ]
    )


def ranked(
    pool: Sequence[Schedule], scores: Mapping[Schedule, float], lams: Sequence[float], seed: int, generator: torch.Generator
) -> list[Schedule]:
    """Return a pool in the order a freshly taught predictor likes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        predictor = Predictor()
    with torch.enable_grad():
        predictor.teach(described([*scores], lams), torch.tensor([*scores.values()]), generator)
    with torch.no_grad():
        liked = predictor(described(pool, lams)).tolist()
    return [one for _, one in sorted(zip(liked, pool, strict=True), key=lambda pair: pair[0])]
