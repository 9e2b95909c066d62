"""How good samples are: their distance to a set they should look like, beside the distance of fresh items to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from retrograde import quality
from retrograde.cli.candidates import reference_plans
from retrograde.cli.complete import configurations
from retrograde.cli.question import Question
from retrograde.cli.store import Line, Store
from retrograde.errors import BadValue, RetrogradeError
from retrograde.plan_file import write_atomically

HEADLINE = "energy"
"""The figure to read first: of some hundred samples it still tells blur from ink, where distances of features do not."""

_FRESH = 4
"""At most so many fresh sets are measured: their spread is what chance alone does."""


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """Holds samples against a set they should look like.

    Attributes:
        target: the set, [m, *shape]; against: what it is, in words.
        features: feature function of some of the distances, or None.
        decoded: what turns latents into data, of which a figure is taken too; None where items are data.
        floor: for each figure what fresh sets of as many items of the same law get: "low", "high", "sets"; None where
            there are no fresh items.
    """

    target: Tensor
    against: str
    features: Callable[[Tensor], Tensor] | None
    floor: Line | None
    decoded: Callable[[Tensor], Tensor] | None = None

    def figures(self, samples: Tensor) -> Line:
        """Return the figures of a set of samples, each with its counts."""
        found = {}
        for figure in self._measure(samples):
            entry = {"value": figure.value, "n": figure.n_samples, "against": figure.n_reference}
            if figure.standard_error is not None:
                entry["standard_error"] = figure.standard_error
            if figure.warning:
                entry["warning"] = figure.warning
            found[figure.name] = entry
        return found

    def _measure(self, samples: Tensor) -> list[quality.Figure]:
        plain = [quality.energy_distance(samples, self.target), quality.sliced_wasserstein(samples, self.target)]
        if self.decoded is not None:
            seen = quality.energy_distance(self.decoded(samples), self._pixels)
            return [*plain, dataclasses.replace(seen, name="energy_pixels")]
        if self.features is None:
            return plain
        x, y = self.features(samples), self.features(self.target)
        subsets = max(1, min(10, len(x) // 50))
        return [quality.frechet_distance(x, y), quality.kernel_distance(x, y, subsets=subsets), plain[0]]

    @cached_property
    def _pixels(self) -> Tensor:
        return self.target if self.decoded is None else self.decoded(self.target)

    def spread(self, sets: Sequence[Tensor]) -> Line:
        """Return for each figure the least and the largest value of some sets."""
        found = [self.figures(one) for one in sets]
        return {
            name: {"low": min(values), "high": max(values), "sets": len(values)}
            for name in found[0]
            if (values := [f[name]["value"] for f in found])
        }


def judge(question: Question, store: Store) -> Judge:
    """Return what samples are held against: data, exact samples of an oracle, or samples of the reference solver."""
    count, denoiser = question.quality_n, question.denoiser
    exact = getattr(getattr(denoiser, "inner", denoiser), "sample", None)
    data = question.data or _data_of(question.model, denoiser.shape)
    features, fresh = None, []
    if data is not None:
        target, fresh = _data(data, question)
        features = _features(denoiser.shape) if data == "digits" else None
        against = f"{len(target)} real items of {data}"
    elif exact is not None and question.condition is None and question.guidance is None:
        target = exact(4 * count, seed=question.seed + 1).float()
        fresh = [exact(count, seed=question.seed + 2 + i).float() for i in range(_FRESH)]
        against = f"{len(target)} exact samples"
    else:
        file = question.folder / f"target-{question.fingerprint}.safetensors"
        if not file.is_file():
            # Other noise than that of the samples, so that the two sets are independent.
            made = question.sample(reference_plans(question)[0], count, question.seed + 1)
            write_atomically(file, save({"samples": made.contiguous()}))
        target = load_file(file)["samples"]
        against = f"{count} samples of the reference solver from other noise"
    made = Judge(target, against, features, None, None if denoiser.codec is None else question.decoded)
    if not fresh:
        return made
    kind = "items" if features is None else "features"
    floor = store.get("floor", kind) or store.put("floor", kind, made.spread(fresh))
    return dataclasses.replace(made, floor=floor)


def _data_of(model: str, shape: tuple[int, ...]) -> str | None:
    if model not in configurations():
        return None
    return {"1x28x28": "digits", "1x8x8": "digits8"}.get("x".join(map(str, shape)))


def _data(name: str, question: Question) -> tuple[Tensor, list[Tensor]]:
    """Return training items, and sets of test items with the labels that the samples are asked for."""
    module, _, function = name.partition(":") if ":" in name else ("retrograde.data", "", name)
    try:
        load = getattr(import_module(module), function)
        (train, _), (test, labels) = load("train"), load("test")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        allowed = "digits, digits8, or package.module:function from a split to (images, labels)"
        raise BadValue(f"--data {name!r}: {error}", allowed, "--data digits") from None
    count = question.quality_n
    target = train[: max(2000, count)].float()
    wanted = question.conditions(count)
    wanted = wanted.get("label") if isinstance(wanted, dict) else wanted
    order = list(range(len(test)))
    sets = []
    while len(sets) < _FRESH and (chosen := _take(order, labels.tolist(), wanted, count)):
        sets.append(test[chosen].float())
    return target, sets


def _take(order: list[int], labels: Sequence[int], wanted: Sequence[int] | None, count: int) -> list[int]:
    """Take `count` places out of `order`, with the wanted labels; none where they do not suffice."""
    if wanted is None:
        chosen = order[:count]
    else:
        held: dict[int, list[int]] = {}
        for place in reversed(order):
            held.setdefault(labels[place], []).append(place)
        chosen = [held[label].pop() for label in wanted if held.get(label)]
    if len(chosen) < count:
        return []
    left = set(chosen)
    order[:] = [place for place in order if place not in left]
    return chosen


def _features(shape: tuple[int, ...]) -> Callable[[Tensor], Tensor] | None:
    from retrograde.zoo import classifier

    if shape != (1, 28, 28):
        return None
    try:
        network = classifier()
    except RetrogradeError:
        return None

    def features(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([network.features(part) for part in x.clamp(-1, 1).split(256)])

    return features
