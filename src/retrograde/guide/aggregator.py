"""A small gate over several networks: how much each counts, place by place."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrograde.errors import BadValue, UnknownName
from retrograde.sites import Call

Key = tuple[str, int]
"""A site, and the number of channels of what came out there: a site may have several outputs."""


@final
class Aggregator(nn.Module):
    """Logits of several networks at every site, from all their features there and the noise level.

        A = softmax_i(W_2 silu(C_2 silu(C_1 [h_1, .., h_N]/r + W_1 [sin(w t), cos(w t), 2 log r_i]))),     h = sum_i A_i h_i

    r_i is the root mean square of the i-th network's features of an item, r their geometric mean. C_1 looks at one place,
    C_2 at its 3 x 3 neighbours, and is left out where features are vectors. W_2 starts at zero, and with it the mixture at
    equal weights. One map for all channels.

    Shapes: features [N, n, channels, *places], t a number or [n] -> [N, n, 1, *places].

    Args:
        channels: of the features at each site; see `Key`.
        networks: N.
        width: channels inside.
        t_max: the largest path time, at which the slowest of the waves has made half a turn and the fastest sixty-four.

    Raises:
        BadValue: fewer than two networks, or a width below one.
        UnknownName: asked at a site it was not made for.

    Reference: Wang, Tian, Guan, Shen, Jiang, Gu, Zhang, Ensembling Diffusion Models via Adaptive Feature Aggregation, 2024,
    arXiv 2405.17082 (the prompt reaches it by the features alone; theirs reads its embedding too).
    """

    waves: Tensor

    def __init__(self, channels: Sequence[Key], networks: int, width: int = 16, t_max: float = 1.0) -> None:
        super().__init__()
        if networks < 2 or width < 1:
            raise BadValue(f"{networks} networks, width={width}", "two or more, width >= 1", "Aggregator(keys, 2, 16)")
        self.networks = networks
        self.places: Mapping[Key, int] = {key: place for place, key in enumerate(dict.fromkeys(channels))}
        waves = torch.pi / t_max * 2.0 ** torch.arange(8)
        self.register_buffer("waves", waves, persistent=False)
        self.first = nn.ModuleList(nn.Linear(networks * count, width) for _, count in self.places)
        self.shift = nn.ModuleList(nn.Linear(16 + networks, width) for _ in self.places)
        self.second = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.places)
        self.last = nn.ModuleList(nn.Linear(width, networks) for _ in self.places)
        for layer in self.last:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, call: Call, features: Tensor, t: float | Tensor) -> Tensor:
        N, n, count = features.shape[:3]
        key = (call.site, count)
        if key not in self.places:
            raise UnknownName("site of a gate", f"{call.site} of {count} channels", [f"{s} of {c}" for s, c in self.places])
        place, sides = self.places[key], features.shape[3:]
        angles = torch.as_tensor(t, device=features.device).float().expand(n)[:, None] * self.waves
        told = torch.cat([angles.sin(), angles.cos()], 1)
        h = features.transpose(0, 1).reshape(n, N * count, -1).transpose(1, 2).float()
        sizes = features.float().flatten(2).square().mean(2).transpose(0, 1).add(1e-12).log()
        h = h * (-0.5 * sizes.mean(1)).exp()[:, None, None]
        h = self.first[place](h) + self.shift[place](torch.cat([told, sizes], 1))[:, None]
        h = functional.silu(h)
        if len(sides) == 2:
            picture = h.transpose(1, 2).reshape(n, -1, *sides)
            h = functional.silu(self.second[place](picture)).flatten(2).transpose(1, 2)
        logits = self.last[place](h).permute(2, 0, 1)
        return logits.reshape(N, n, 1, *sides) if sides else logits.reshape(N, n, 1)
