"""Tables that others have fitted, as plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde.errors import BadType, ShapeError
from retrograde.paths import Path, VPDiscrete
from retrograde.plan import Plan, Row
from retrograde.recipes.recipe import made


def from_olss(timesteps: Sequence[int] | Tensor, wx: Sequence[float] | Tensor, we: Any, path: Path) -> Plan:
    """Return the plan of a fitted OLSS scheduler: x_(i+1) = wx[i] x_T + sum_j we[i][j] e_j, e the noise predictions.

    The three tables are what the authors' scheduler saves (`torch.load(file)` returns them), on the path the network was
    trained on. The run starts from noise of standard deviation 1 there (`start_noise` of the provenance).

    Args:
        timesteps: trained steps, noisiest first [n].
        wx: weights of the initial state [n].
        we: weights of the predictions, oldest first, lower triangular [n, n].

    Raises:
        BadType: a path that is no `VPDiscrete`.
        ShapeError: tables whose lengths do not agree.

    Reference: Duan et al., Optimal Linear Subspace Search, 2023, arXiv 2305.14677.
    """
    if not isinstance(path, VPDiscrete):
        raise BadType(f"path {path.name}", "the discrete path of the network", "rg.paths.from_alphas_cumprod(...)")
    steps = [int(t) for t in torch.as_tensor(timesteps).tolist()]
    on_x = torch.as_tensor(wx, dtype=torch.float64).detach().cpu()
    on_e = torch.as_tensor(we, dtype=torch.float64).detach().cpu()
    n = len(steps)
    if tuple(on_x.shape) != (n,) or tuple(on_e.shape) != (n, n):
        raise ShapeError(
            f"{n} timesteps with wx of shape {list(on_x.shape)} and we of shape {list(on_e.shape)}",
            f"wx [{n}] and we [{n}, {n}]",
            "pass the three tables of one file",
        )
    times = [(step + 1) / len(path.alphas_cumprod) for step in steps]
    rows = []
    for i, (step, t) in enumerate(zip(steps, times, strict=True)):
        outputs = tuple(on_e[i, : i + 1].flip(0).tolist())
        states = (*(0.0,) * i, float(on_x[i]))
        rows.append(Row(t, times[i + 1] if i + 1 < n else None, states, outputs, network_time=float(step)))
    provenance = {"peer": "OLSS", "timesteps": steps, "start_noise": 1.0 / path.s(times[0]), "predicts": "noise"}
    return made(path, rows, "noise", "olss@1", provenance)
