"""Token merging: tokens that are much alike go through attention as one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.accelerate.shared import adding
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadType, BadValue
from retrograde.sites import Call, Places, Policy, Tap, Visit, Within, places_of, within

systems.register(
    systems.System(
        title="Token Merging for Fast Stable Diffusion",
        authors=("Daniel Bolya", "Judy Hoffman"),
        year=2023,
        arxiv="2303.17604",
        home="accelerate",
        call="rg.accelerate.merge_tokens(denoiser, 0.5)",
        test="tests/accelerate/test_merging.py::test_tokens_that_are_alike_are_merged_without_a_trace",
    )
)

MERGE = "merge"
"""Knob of the rows that merge another part of the tokens than the others."""


def merger(
    tokens: Tensor, ratio: float, grid: tuple[int, int], cell: int = 2
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return how tokens [n, T, c] are merged to [n, T - r, c], and how results are spread to all T again.

    One token of each cell of the grid stays. The r of the others that are most alike to one of these, by the cosine of their
    features, are averaged into it; spreading gives each token what became of the one it was merged into.

    Args:
        ratio: r = min(ratio T, those that may go).
        grid: rows and columns of tokens, T = rows x columns.
    """
    n, count = tokens.shape[:2]
    place = torch.arange(count, device=tokens.device).reshape(grid)
    stays = torch.zeros(grid, dtype=torch.bool, device=tokens.device)
    stays[::cell, ::cell] = True
    kept, moving = place[stays], place[~stays]
    r = min(int(ratio * count), len(moving))
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    alike, target = (unit[:, moving] @ unit[:, kept].transpose(1, 2)).max(-1)
    order = alike.argsort(-1, descending=True)
    gone, rest = order[:, :r], order[:, r:]
    into = target.gather(1, gone)

    def at(x: Tensor, which: Tensor) -> Tensor:
        return x.gather(1, which[..., None].expand(-1, -1, x.shape[-1]))

    def merge(x: Tensor) -> Tensor:
        others = x[:, moving]
        index = into[..., None].expand(-1, -1, x.shape[-1])
        return torch.cat([at(others, rest), x[:, kept].scatter_reduce(1, index, at(others, gone), "mean")], 1)

    def spread(y: Tensor) -> Tensor:
        single, held = y[:, : len(moving) - r], y[:, len(moving) - r :]
        made = y.new_empty(n, count, y.shape[-1])
        made[:, kept] = held
        index = moving.expand(n, -1)
        made.scatter_(1, index.gather(1, rest)[..., None].expand_as(single), single)
        return made.scatter_(1, index.gather(1, gone)[..., None].expand(-1, -1, y.shape[-1]), at(held, into))

    return merge, spread


@final
@dataclasses.dataclass(frozen=True)
class MergedTokens(Policy):
    """Self-attention over fewer tokens (see `merge_tokens`)."""

    attention: tuple[str, ...]
    adding: frozenset[str]
    ratio: float
    cell: int
    title: ClassVar[str] = "merge_tokens"
    knob: ClassVar[str | None] = MERGE

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        ratio = self.ratio if visit.asked is None else float(visit.asked)
        if ratio == 0.0:
            return {}
        height, width = visit.x_t.shape[-2:] if visit.x_t.ndim == 4 else (visit.x_t.shape[-1], 1)

        def tap(call: Call) -> Any:
            x = next(x for x in (*call.args, *call.kwargs.values()) if isinstance(x, Tensor))
            flat = x if x.ndim == 3 else x.flatten(2).transpose(1, 2)
            merge, spread = merger(flat, ratio, _grid(flat.shape[1], height, width), self.cell)
            fewer = merge(flat)
            given = fewer if x.ndim == 3 else fewer.transpose(1, 2)[..., None]
            others = [one for one in (*call.args, *call.kwargs.values()) if isinstance(one, Tensor) and one is not x]
            if any(x.shape[1] in one.shape for one in others if x.ndim == 3):
                raise BadType(
                    f"merged tokens for {call.site!r}, which is told something of every token",
                    "attention that sees the tokens alone: no masks, no rotary positions",
                    "leave it out: places=rg.sites.Places(network, attention=(...))",
                )
            args = [given if one is x else one for one in call.args]
            made = call.compute_with(*args, **{name: given if one is x else one for name, one in call.kwargs.items()})
            made = made if x.ndim == 3 else made[..., 0].transpose(1, 2)
            if call.site in self.adding:
                whole = flat + spread(made - fewer)
                return whole if x.ndim == 3 else whole.transpose(1, 2).reshape(x.shape)
            return spread(made)

        return dict.fromkeys(self.attention, tap)


def _grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of a feature map's tokens; one row where they are no smaller copy of the state."""
    patch = math.isqrt(max(1, height * width // tokens))
    rows, columns = height // patch, width // patch
    return (rows, columns) if rows * columns == tokens else (1, tokens)


def merge_tokens(denoiser: AbstractDenoiser, ratio: float, *, cell: int = 2, places: Places | None = None) -> Within:
    """Return the denoiser whose self-attention sees a part of its tokens merged.

    Before each self-attention the `ratio` of all tokens that are most alike to one that stays are averaged into it (see
    `merger`), and what attention makes of that is handed to all of them: softmax(Q K^T) V over (1 - ratio) T tokens. Where
    tokens come in equal groups of like ones nothing changes. With ratio 0 the samples are the denoiser's, bit by bit. Rows
    may name a ratio of their own in the knob "merge".

    The tokens that stay are the first ones of each cell here, where the authors draw them anew in each step. Merging
    pays where sequences are long: choosing the pairs costs (1 - 1/cell^2) T x T/cell^2 products of features.

    Args:
        ratio: part of the tokens to merge, at most 1 - 1/cell^2.
        cell: edge of the cells of which one token stays.

    Raises:
        BadType: no self-attention was found in the denoiser, or one that is told something of every token.
        BadValue: a ratio that the cells do not allow.

    Reference: Bolya, Hoffman, 2023, arXiv 2303.17604.
    """
    if cell < 1 or not 0 <= ratio <= 1 - 1 / cell**2:
        raise BadValue(
            f"ratio={ratio} with cells of {cell}", f"0..{1 - 1 / max(1, cell) ** 2:g}", "merge_tokens(denoiser, 0.5)"
        )
    places = places_of(denoiser) if places is None else places
    return within(denoiser, MergedTokens(tuple(places.need("attention")), adding(places), ratio, cell), places)
