"""Early exits: each item leaves a transformer at the first block after which little more is to be expected."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from retrograde import systems
from retrograde.accelerate.runs import some
from retrograde.denoisers import AbstractDenoiser, prepare_condition
from retrograde.errors import BadType, BadValue
from retrograde.paths import Path
from retrograde.sites import Block, Call, Places, Policy, Tap, Visit, Within, opened, places_of, within

systems.register(
    systems.System(
        title="DeeDiff: Dynamic Uncertainty-Aware Early Exiting for Accelerating Diffusion Model Generation",
        authors=("Shengkun Tang", "Yaqing Wang", "Caiwen Ding", "Yi Liang", "Yao Li", "Dongkuan Xu"),
        year=2023,
        arxiv="2309.17074",
        home="accelerate",
        call="rg.accelerate.early_exit(denoiser, rg.train.fit_exits(denoiser, images, conditions), threshold=0.1)",
        test="tests/accelerate/test_exits.py::test_each_item_leaves_where_its_own_doubt_allows_it",
    )
)

EXIT = "exit"
"""Knob of the rows that have a threshold of their own."""

WAVES = 4


def waves(path: Path, t: float | Tensor, n: int) -> Tensor:
    """Return what exits are told of the noise level, [n, 8]: cos and sin of k angle, k = 1..4, angle = atan(s/a)."""
    times = torch.as_tensor(t, dtype=torch.float64).reshape(-1)
    angle = torch.atan2(torch.as_tensor(path.s(times)), torch.as_tensor(path.a(times)))
    turns = angle[:, None] * torch.arange(1, WAVES + 1, device=angle.device)
    return torch.cat([turns.cos(), turns.sin()], 1).float().expand(n, -1)


@final
class Exits(nn.Module):
    """For each block but the last, how much is to be expected of those after it, and what to hand on without them.

        doubt_k = mean over tokens of sigmoid(w_k . [h, level] + b_k),    exit_k = h + W_k silu(V_k [norm(h), level])

    h the block's output and level the `waves` of the noise level. W_k begins at zero. What is handed on goes through the
    network's own last layers, so that exits need none. The other weights are drawn by the seed alone, evenly within
    1/sqrt(inputs).

    Shapes: h [n, tokens, width], level [n, 8] -> doubt [n], exit [n, tokens, width].
    """

    def __init__(self, count: int, width: int, hidden: int | None = None, seed: int = 0) -> None:
        super().__init__()
        told, inner = width + 2 * WAVES, hidden or width
        generator = torch.Generator().manual_seed(seed)
        self.doubts = nn.ModuleList(_linear(told, 1, generator) for _ in range(count))
        self.enter = nn.ModuleList(_linear(told, inner, generator) for _ in range(count))
        self.leave = nn.ModuleList(_linear(inner, width, None) for _ in range(count))

    def doubt(self, k: int, features: Tensor, level: Tensor) -> Tensor:
        """Return the doubt after block k, in (0, 1)."""
        return torch.sigmoid(self.doubts[k](_with(features, level)))[..., 0].mean(1)

    def exit(self, k: int, features: Tensor, level: Tensor) -> Tensor:
        """Return the features with which items leave after block k."""
        normed = functional.layer_norm(features.float(), features.shape[-1:])
        return features + self.leave[k](functional.silu(self.enter[k](_with(normed, level)))).to(features)


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """Return a layer of zeros, or of draws of a generator; the global one is not asked."""
    layer = cast(nn.Linear, skip_init(nn.Linear, inputs, outputs, device="cpu"))
    for parameter in layer.parameters():
        if generator is None:
            nn.init.zeros_(parameter)
        else:
            nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator)
    return layer


def _with(features: Tensor, level: Tensor) -> Tensor:
    features = features.float()  # as the exits are, whatever the network computes in
    told = level.to(features)[:, None].expand(-1, features.shape[1], -1)
    return torch.cat([features, told], -1)


@final
@dataclasses.dataclass
class _Leaving:
    """One evaluation, in which items leave one after another."""

    policy: EarlyExit
    visit: Visit
    threshold: float
    level: Tensor
    inside: Tensor

    def tap(self, k: int) -> Tap:
        """Return the tap of block k."""

        def tap(call: Call) -> Any:
            here, n = _tokens(call, self.policy.chain[k].bypass(call)), self.visit.n
            items = self.inside.nonzero().flatten()
            if len(items) < n:
                self.visit.skip(call.site, items=n - len(items))
            if len(items) == 0:
                return here
            made = call.compute() if len(items) == n else self._some(call, here, items)
            return made if k == len(self.policy.chain) - 1 else self._left(k, made, items)

        return tap

    def _some(self, call: Call, here: Tensor, items: Tensor) -> Tensor:
        """Compute a block for some items; a table of positions that looks like one entry per item makes it all of them."""
        n = self.visit.n
        if here.shape[1] == n:
            return torch.where(self.inside[:, None, None].to(here.device), call.compute(), here)
        index = items.to(here.device)
        return here.index_copy(0, index, call.compute_with(*some(call.args, index, n), **some(call.kwargs, index, n)))

    def _left(self, k: int, made: Tensor, items: Tensor) -> Tensor:
        """Let those items leave whose doubt is small."""
        exits, level = self.policy.exits, self.level.to(made.device)
        index = items.to(made.device)
        gone = index[exits.doubt(k, made[index], level[index]) <= self.threshold]
        if len(gone) == 0:
            return made
        self.inside[gone.to(self.inside.device)] = False
        return made.index_copy(0, gone, exits.exit(k, made[gone], level[gone]).to(made))


def _tokens(call: Call, features: Any) -> Tensor:
    if isinstance(features, Tensor) and features.ndim == 3:
        return features
    raise BadType(
        f"{call.site}, which is given {type(features).__name__}",
        "blocks over one stream of tokens [n, tokens, width]",
        "rg.accelerate.first_block, which leaves out blocks over text and image",
    )


@final
@dataclasses.dataclass(frozen=True, eq=False)
class EarlyExit(Policy):
    """Items leave the chain of blocks early (see `early_exit`)."""

    chain: tuple[Block, ...]
    exits: Exits
    threshold: float
    path: Path
    title: ClassVar[str] = "early_exit"
    knob: ClassVar[str | None] = EXIT

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        threshold = self.threshold if visit.asked is None else float(visit.asked)
        if threshold <= 0.0:
            return {}
        level, inside = waves(self.path, visit.times, visit.n), torch.ones(visit.n, dtype=torch.bool)
        leaving = _Leaving(self, visit, threshold, level, inside)
        return {block.name: leaving.tap(k) for k, block in enumerate(self.chain)}


def exits(denoiser: AbstractDenoiser, hidden: int | None = None, *, seed: int = 0, places: Places | None = None) -> Exits:
    """Return exits for a transformer, not taught yet; the network is asked once, for the width of its tokens.

    Args:
        hidden: width inside each exit; the tokens' by default.
        seed: of the weights they begin with.

    Raises:
        BadType: no chain of blocks was found in the denoiser, or blocks over more than one stream of tokens.
    """
    places = places_of(denoiser) if places is None else places
    chain: tuple[Block, ...] = places.need("chain")
    widths: list[int] = []

    def look(call: Call) -> Any:
        made = _tokens(call, call.compute())
        widths.append(made.shape[-1])
        return made

    parameter = next(places.network.parameters())
    x = torch.zeros(1, *denoiser.shape, device=parameter.device)
    with torch.no_grad(), opened(places.network, {chain[0].name: look}):
        denoiser.predict(x, denoiser.path.t_max, prepare_condition(denoiser, None, 1, parameter.device))
    return Exits(len(chain) - 1, widths[0], hidden, seed).to(parameter.device)


def early_exit(denoiser: AbstractDenoiser, exits: Exits, threshold: float, *, places: Places | None = None) -> Within:
    """Return the denoiser whose items leave after the first block at which their doubt is at most a threshold.

        leave after the first block k with doubt_k <= threshold, on exit_k; after the last block otherwise.

    Decided item by item, so a sample does not depend on its batch. threshold 0 is the denoiser, bit by bit; at 1 every item
    leaves after the first block. A row's knob "exit" is a threshold of its own: `rg.accelerate.reuse(plan, full,
    value=0.3, knob="exit")`. On a GPU every block waits for the decision.

    Args:
        exits: what `rg.train.fit_exits` taught.

    Raises:
        BadType: no chain of blocks was found in the denoiser, or blocks over more than one stream of tokens.
        BadValue: exits of another network, or a threshold outside of [0, 1].

    Reference: Tang et al., 2023, arXiv 2309.17074. There each exit has an output layer of its own and the network is trained
    with them; here it stays as it is.
    """
    places = places_of(denoiser) if places is None else places
    chain: tuple[Block, ...] = places.need("chain")
    if not 0.0 <= threshold <= 1.0 or len(exits.doubts) != len(chain) - 1:
        given = f"threshold={threshold}, {len(exits.doubts)} exits for {len(chain)} blocks"
        raise BadValue(given, "a threshold in [0, 1], exits for all blocks but the last", "threshold=0.1")
    return within(denoiser, EarlyExit(chain, exits, float(threshold), denoiser.path), places)
