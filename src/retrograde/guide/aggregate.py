"""Several networks of one architecture in lock step, their features mixed block by block."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.guide.transform import Transform
from retrograde.sites import Call, Places, opened, places_of

systems.register(
    systems.System(
        title="Ensembling Diffusion Models via Adaptive Feature Aggregation",
        authors=(
            "Cong Wang",
            "Kuan Tian",
            "Yonghang Guan",
            "Fei Shen",
            "Zhiwei Jiang",
            "Qing Gu",
            "Jun Zhang",
        ),
        year=2024,
        arxiv="2405.17082",
        home="compose",
        call="rg.train.fit_gate(rg.guide.aggregate(denoiser, [other]), images, labels)",
        test="tests/train/test_gate.py::test_the_gate_of_a_union_is_learned",
    )
)

Gate = Callable[[Call, Tensor, Any], Tensor]
"""From a call of a site, the features of all networks there [N, n, ...] and the path time to logits [N, ...]."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Aggregated(Transform):
    """A denoiser whose network is mixed with others of its architecture (see `aggregate`)."""

    networks: tuple[nn.Module, ...]
    sites: tuple[str, ...]
    gate: Tensor | Gate

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        with self.together(t):
            made = self.inner.predict(x_t, t, condition, knobs, network_time)
        places = range(len(self.networks))
        counted = {f"{name}:{place}": count for place in places for name, count in made.evaluations.items()}
        return dataclasses.replace(made, evaluations=counted)

    def together(self, t: float | Tensor) -> AbstractContextManager[Any]:
        """Return the context in which the first network computes the mixture, at a path time, also one for each item."""

        def mixed(call: Call) -> Any:
            others = [one.get_submodule(call.site)(*call.args, **call.kwargs) for one in self.networks[1:]]
            return tree_map(
                lambda *same: self._mixed(call, torch.stack(same), t) if isinstance(same[0], Tensor) else same[0],
                call.compute(),
                *others,
            )

        return opened(self.networks[0], dict.fromkeys(self.sites, mixed))

    def _mixed(self, call: Call, features: Tensor, t: float | Tensor) -> Tensor:
        if isinstance(self.gate, Tensor):
            weights = self.gate.to(features)
        else:
            weights = self.gate(call, features, t).softmax(0).to(features)
        return (weights.reshape(*weights.shape, *(1,) * (features.ndim - weights.ndim)) * features).sum(0)


def aggregate(
    denoiser: AbstractDenoiser,
    others: Sequence[AbstractDenoiser],
    gate: Sequence[float] | Gate | None = None,
    *,
    sites: Sequence[str] | None = None,
    places: Places | None = None,
) -> Aggregated:
    """Return the denoiser whose network runs in lock step with others, h = sum_i A_i h_i after each of its parts.

    Every network sees the mixed features, skip connections included, as the input of its next part. Equal networks are one
    of them for any gate; a gate that is one network's everywhere is that network. `train.fit_gate` trains one that looks at
    all features, which is adaptive feature aggregation; a gate of your own is any function, also a module. (Skips are mixed
    since what makes them is; the authors do not say.) One evaluation asks each network once, the i-th counted as "name:i".
    Guidance goes outside.

    Args:
        others: denoisers of networks with the same architecture, path and parameterization.
        gate: a weight for each network, the first one's first, of sum 1; or a function to logits, over which the softmax is
            taken (see `Gate`), one for each network, item or element. None for equal weights.
        sites: parts whose outputs are mixed; ("",) is the mean of the outputs. None for all: blocks, and what stands
            between them.
        places: where the network's blocks are, if they cannot be found.

    Raises:
        BadType: no module, or networks of other tensors, paths or parameterizations.
        BadValue: no others, or weights that are not as many or whose sum is not 1.
        UnknownName: a site that the network does not have.

    Reference: Wang, Tian, Guan, Shen, Jiang, Gu, Zhang, Ensembling Diffusion Models via Adaptive Feature Aggregation, 2024,
    arXiv 2405.17082.
    """
    if not others:
        raise BadValue("no other networks", "one or more", "aggregate(den, [other])")
    found = None if sites is not None and places is None and tuple(sites) == ("",) else places or places_of(denoiser)
    networks = tuple(_network(one, denoiser) for one in (denoiser, *others))
    chosen = ("",) if found is None else tuple(_parts(networks[0], found)) if sites is None else tuple(sites)
    names = [name for name, _ in networks[0].named_modules()]
    for site in chosen:
        if site not in names:
            raise UnknownName("site", site, [name for name in names if name])
    if gate is None:
        gate = [1.0 / len(networks)] * len(networks)
    if not callable(gate):
        weights = [float(weight) for weight in gate]
        if len(weights) != len(networks) or not math.isclose(sum(weights), 1.0, rel_tol=1e-6):
            allowed = f"{len(networks)} weights of sum 1"
            raise BadValue(f"weights {weights}", allowed, f"gate={[round(1 / len(networks), 3)] * len(networks)}")
        return Aggregated(denoiser, networks, chosen, torch.tensor(weights, dtype=torch.float64))
    return Aggregated(denoiser, networks, chosen, gate)


def _network(denoiser: AbstractDenoiser, first: AbstractDenoiser) -> nn.Module:
    network, model = getattr(denoiser, "network", None), getattr(first, "network", None)
    if not isinstance(network, nn.Module) or not isinstance(model, nn.Module):
        raise BadType(
            f"{denoiser.name!r}, which is not made of a torch module", "a rg.Denoiser of a module", "rg.Denoiser(...)"
        )
    tensors, like = ({name: value.shape for name, value in one.state_dict().items()} for one in (network, model))
    if tensors != like or denoiser.path != first.path or denoiser.predicts != first.predicts:
        given = f"{denoiser.name!r} beside {first.name!r}, of other tensors, path or parameterization"
        raise BadType(given, "networks of one architecture, trained alike", "take models fine-tuned from one start")
    return network


def _parts(network: nn.Module, places: Places) -> Iterator[str]:
    """Yield the blocks of a network, and all that stands beside them, each module once."""
    blocks = {block.name for block in places.blocks}

    def below(name: str, module: nn.Module) -> Iterator[str]:
        for part, child in module.named_children():
            inside = f"{name}.{part}" if name else part
            if inside in blocks:
                yield inside
            elif isinstance(child, nn.ModuleList) or any(block.startswith(f"{inside}.") for block in blocks):
                yield from below(inside, child)
            else:
                yield inside

    return below("", network)
