"""Does a sampler shrink or blur: variance ratio and radially averaged power spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from retrograde.errors import BadValue, ShapeError
from retrograde.quality.features import Features, checked, two_sets
from retrograde.quality.figure import Figure


def variance_ratio(samples: torch.Tensor, reference: torch.Tensor, features: Features | None = None) -> Figure:
    """Total variance of the samples over that of the reference: tr C_samples / tr C_reference.

    Below 1 the samples shrink towards their mean (few steps, strong guidance), above 1 they are noisy. Sets [n, ...],
    [m, ...]; no unit.

    Raises ShapeError, BadType, BadValue for sets that do not fit, are not finite, hold fewer than 2 items, or for a
    reference without variance.
    """
    x, y = two_sets(samples, reference, features, least=2)
    below = float(y.var(dim=0).sum())
    if below == 0:
        raise BadValue("a reference whose items are all equal", "a reference that varies", "pass different items")
    return Figure("variance_ratio", float(x.var(dim=0).sum()) / below, len(x), len(y))


@final
@dataclass(frozen=True, eq=False)
class PowerSpectrum:
    """Radially averaged power: `frequency` [r] in cycles per element, `power` [r], and `modes` [r] in each ring."""

    frequency: torch.Tensor
    power: torch.Tensor
    modes: torch.Tensor
    n_samples: int


def power_spectrum(samples: torch.Tensor) -> PowerSpectrum:
    """Mean over items and channels of |F x|^2 (orthonormal Fourier transform), averaged over rings of equal frequency.

    Signals [n, c, l], images [n, c, h, w] or volumes [n, c, d, h, w]; rings are 1 / (longest side) wide and centred on
    its multiples, so that the first is the mean alone; rings without a mode are left out. White noise of
    variance v has power v everywhere, and sum(power * modes) is the mean energy of a channel.

    Raises ShapeError for other shapes, BadType, BadValue for what is not finite or empty.
    """
    x = checked(samples, "samples")
    if not 3 <= x.ndim <= 5 or x.numel() == 0:
        allowed = "[n, channels, length], [n, channels, h, w] or [n, channels, d, h, w], not empty"
        raise ShapeError(f"samples of shape {tuple(x.shape)}", allowed, "samples[:, None]")
    sides = tuple(x.shape[2:])
    power = torch.fft.fftn(x, dim=tuple(range(2, x.ndim)), norm="ortho").abs().square().mean(dim=(0, 1))
    axes = [torch.fft.fftfreq(side, dtype=torch.float64) for side in sides]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    ring = (radius * max(sides)).round().long().flatten()
    counts = torch.bincount(ring)
    sums = torch.bincount(ring, weights=power.cpu().flatten(), minlength=len(counts))
    there = counts.nonzero().flatten()
    frequency = there.double() / max(sides)
    return PowerSpectrum(frequency, sums[there] / counts[there], counts[there], len(x))


def spectrum_distance(samples: torch.Tensor, reference: torch.Tensor) -> Figure:
    """Root mean square over rings of ln(P_samples / P_reference): 0.1 is some ten per cent of power at each frequency.

    Shapes as `power_spectrum` takes them; rings where both have no power are left out.

    Raises ShapeError when the item shapes differ, BadValue when only one side has power in some ring.
    """
    x, y = power_spectrum(samples), power_spectrum(reference)
    if tuple(samples.shape[1:]) != tuple(reference.shape[1:]):
        given = f"items of shape {tuple(samples.shape[1:])} against {tuple(reference.shape[1:])}"
        raise ShapeError(given, "equal item shapes", "crop or resize one of them")
    # Rounding in the transform leaves some 1e-32 of the total where the signal has nothing.
    floor = 1e-28 * float(torch.maximum(x.power.max(), y.power.max()))
    has_x, has_y = x.power > floor, y.power > floor
    if bool((has_x != has_y).any()) or not bool(has_x.any()):
        ring = int((has_x != has_y).nonzero()[0]) if bool((has_x != has_y).any()) else 0
        given = f"no power at frequency {float(x.frequency[ring]):.3g} on one side"
        raise BadValue(given, "power on both sides at every frequency", "compare power_spectrum() of both by eye")
    ratio = (x.power[has_x] / y.power[has_x]).log()
    settings = f"{int(has_x.sum())} frequencies"
    return Figure("spectrum", float(ratio.square().mean().sqrt()), x.n_samples, y.n_samples, settings=settings)
