"""One denoiser for each range of path times."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers.carried import CARRIED
from retrograde.denoisers.denoiser import NOTHING, AbstractDenoiser, checked_denoiser
from retrograde.denoisers.prediction import Prediction
from retrograde.errors import BadValue


@final
@dataclasses.dataclass(frozen=True, eq=False)
class ByLevel(AbstractDenoiser):
    """The denoiser that asks part k at path times edges[k - 1] <= t < edges[k]: specialists at the price of one.

    A row asks one part and the ledger says which ("0:NAME", "1:NAME"); equal parts are one denoiser, bit by bit. Train
    each on its range, with a level law of its own, beginning from one network trained on all.

    Args:
        parts: from low to high times, all on one path, for items of one shape, with the same conditions.
        edges: rising path times between them, one fewer.

    Raises:
        BadValue: parts that do not belong together, or edges that are not between them.

    References: Luo, Xiang, Zhang, Han and Yang, Image Super-resolution Via Latent Diffusion: A Sampling-space Mixture Of
    Experts And Frequency-augmented Decoder Approach, 2023, arXiv 2310.12004 (its experts over time); Balaji et al.,
    eDiff-I, 2022, arXiv 2211.01324.
    """

    parts: tuple[AbstractDenoiser, ...]
    edges: tuple[float, ...]
    path: Any = dataclasses.field(init=False)
    shape: tuple[int, ...] = dataclasses.field(init=False)
    predicts: str = dataclasses.field(init=False)
    conditions: Mapping[str, Any] = dataclasses.field(init=False)
    consumes: frozenset[str] = dataclasses.field(init=False)
    name: str = dataclasses.field(init=False, default="by_level")

    def __post_init__(self) -> None:
        parts, edges = tuple(checked_denoiser(part) for part in self.parts), tuple(map(float, self.edges))
        rising = all(low < high for low, high in zip(edges, edges[1:], strict=False))
        if not parts or len(edges) != len(parts) - 1 or not rising:
            given = f"{len(parts)} parts, edges {list(edges)}"
            raise BadValue(given, "rising path times, one fewer than parts", "ByLevel((low, high), (0.5,))")
        if len({(one.path, tuple(one.shape), one.predicts, tuple(sorted(one.conditions))) for one in parts}) != 1:
            given = ", ".join(f"{one.predicts!r} of {list(one.shape)} on {one.path.name!r}" for one in parts)
            raise BadValue(given, "one path, shape, prediction and set of conditions", "copies of one denoiser")
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "edges", edges)
        for field in ("path", "shape", "predicts", "conditions", "codec"):
            object.__setattr__(self, field, getattr(parts[0], field))
        object.__setattr__(self, "consumes", frozenset().union(*(one.consumes for one in parts)))

    def network_time(self, t: float) -> float:
        return self.parts[bisect_right(self.edges, t)].network_time(t)

    def snap(self, t: float) -> float:
        return self.parts[bisect_right(self.edges, t)].snap(t)

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        if not isinstance(t, Tensor):
            k = bisect_right(self.edges, t)
            part = self.parts[k]
            passed = {name: value for name, value in knobs.items() if name == CARRIED or name in part.consumes}
            made = part.predict(x_t, t, condition, passed, network_time)
            counted = {f"{k}:{label}": count for label, count in made.evaluations.items()}
            return dataclasses.replace(made, evaluations=counted)
        data, counted = torch.empty_like(x_t), {}
        place = torch.bucketize(t.double().flatten(), torch.tensor(self.edges, dtype=torch.float64).to(t.device), right=True)
        for k in place.unique().tolist():
            at = (place == k).nonzero()[:, 0]
            own = {name: value[at] for name, value in condition.items()}
            passed = {name: value for name, value in knobs.items() if name in self.parts[k].consumes}
            made = self.parts[k].predict(x_t[at], t.flatten()[at], own, passed)
            data[at] = made.data.to(data)
            counted |= {f"{k}:{label}": count for label, count in made.evaluations.items()}
        return Prediction(x_t, t, self.path, data, "data", evaluations=counted)


systems.register(
    systems.System(
        title=(
            "Image Super-resolution Via Latent Diffusion: A Sampling-space Mixture Of Experts And "
            "Frequency-augmented Decoder Approach"
        ),
        authors=("Feng Luo", "Jinxi Xiang", "Jun Zhang", "Xiao Han", "Wei Yang"),
        year=2023,
        arxiv="2310.12004",
        home="restore",
        call="rg.sample(rg.denoisers.ByLevel((fine, coarse), (0.5,)), plan, condition={'seen': low})",
        test="tests/denoisers/test_by_level.py::test_equal_parts_are_one_denoiser_and_a_row_asks_one",
    )
)
