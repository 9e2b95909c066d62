"""A network that sees a second item beside the noisy one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import nn

from retrograde import systems
from retrograde.errors import BadValue, ShapeError, UnknownName
from retrograde.nets.mlp import MLPDenoiser
from retrograde.nets.unet import UNet

_INNER: dict[str, type[nn.Module]] = {"UNet": UNet, "MLPDenoiser": MLPDenoiser}


@final
class Beside(nn.Module):
    """A network of [x_t, y, ...] along the first axis: what is seen beside x_t, such as the anchor, lies in more channels.

    The answer is the first channels of the inner network's, F([x_t, y], t)[:, :c].

    Shapes: x_t and everything seen [n, *shape], network_time [n], label as the inner network's -> [n, *shape].

    Args:
        shape: of one item, channels first.
        of: the inner network's class, "UNet" or "MLPDenoiser".
        sees: keywords under which the call is given what lies beside x_t, in this order.
        classes: 0 for a network without labels.
        **inner: the other keywords of the inner network.

    Raises:
        UnknownName: another class.
        BadValue: nothing to see, or keywords that the inner network does not have.
        ShapeError: in a call, something seen that is missing or not shaped as x_t.
    """

    def __init__(
        self, shape: Sequence[int], of: str = "UNet", sees: Sequence[str] = ("anchor",), classes: int = 0, **inner: Any
    ) -> None:
        super().__init__()
        if of not in _INNER:
            raise UnknownName("network", of, _INNER)
        if not sees:
            raise BadValue("sees=()", "one keyword or more", "sees=('anchor',), or the inner network alone")
        unknown = sorted(inner.keys() - inspect.signature(_INNER[of]).parameters.keys())
        if unknown:
            raise BadValue(f"{of} with {', '.join(unknown)}", "the keywords of its class", "correct them")
        self.shape, self.sees = tuple(shape), tuple(sees)
        stacked = ((1 + len(self.sees)) * self.shape[0], *self.shape[1:])
        self.inner = _INNER[of](shape=stacked, classes=classes, **inner)

    def forward(
        self,
        x_t: torch.Tensor,
        network_time: torch.Tensor,
        label: torch.Tensor | int | None = None,
        **seen: torch.Tensor,
    ) -> torch.Tensor:
        if seen.keys() != set(self.sees) or any(one.shape != x_t.shape for one in seen.values()):
            given = ", ".join(f"{name} {list(one.shape)}" for name, one in seen.items()) or "nothing"
            raise ShapeError(
                f"{given} beside x_t {list(x_t.shape)}",
                f"{', '.join(self.sees)}, shaped as x_t",
                f"network(x_t, t, {', '.join(f'{name}=...' for name in self.sees)})",
            )
        stacked = torch.cat([x_t, *(seen[name].to(x_t) for name in self.sees)], 1)
        return self.inner(stacked, network_time, label)[:, : self.shape[0]]


for _title, _authors, _year, _arxiv, _call, _test in (
    (
        "Text Image Inpainting via Global Structure-Guided Diffusion Models",
        ("Shipeng Zhu", "Pengfei Fang", "Chenjie Zhu", "Zuoyan Zhao", "Qiang Xu", "Hui Xue"),
        2024,
        "2401.14832",
        "rg.sample(den, rg.plan('ddim', den, nfe=5), condition={'seen': corrupted, 'mask': structure(corrupted)})",
        "test_a_true_mask_is_worth_much_and_a_predicted_one_nothing",
    ),
    (
        "GenDeg: Diffusion-Based Degradation Synthesis for Generalizable All-in-One Image Restoration",
        ("Sudarshan Rajagopalan", "Nithin Gopalakrishnan Nair", "Jay N. Paranjape", "Vishal M. Patel"),
        2024,
        "2411.17687",
        "rg.sample(den, plan, condition={'clean': x, 'kind': kind, 'amount': mean, 'spread': deviation})",
        "test_degradations_are_made_as_asked_and_stronger_ones_teach_what_the_pairs_do_not",
    ),
):
    systems.register(
        systems.System(
            title=_title,
            authors=_authors,
            year=_year,
            arxiv=_arxiv,
            home="restore",
            call=_call,
            test=f"tests/train/test_restored_small.py::{_test}",
        )
    )
