"""Draw the pictures of docs/gallery.md: run its lines in order, and show what `made` is after those under each heading.

python examples/gallery.py [--out docs/images/gallery] [--only HEADING ...]

Networks that a section asks for, `taught("pairs")`, are trained here, some minutes in all. With --only, the lines of all
sections that need no training run, and the pictures of headings that hold one of these words are written.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.cli.pictures import mosaic

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gallery.md"
sys.path.insert(0, str(ROOT / "benchmarks"))


def _classifier(share: float) -> nn.Module:
    """A perceptron of clean small digits."""
    from strong_guidance import classifier

    torch.manual_seed(0)
    images, labels = rg.data.digits8("train")
    return classifier(images.float(), labels, max(1, round(1500 * share))).requires_grad_(False)


def _parts(share: float) -> list[rg.Denoiser]:
    """Three copies of the small model that forget all digits but their own."""
    from aggregate_experts import PARTS, denoiser, trained

    common: Any = rg.load("digits8-flow")
    images, labels = rg.data.digits8("train")
    own = [images[torch.isin(labels, torch.tensor(part))].float() for part in PARTS.values()]
    steps = max(1, round(150 * share))
    return [denoiser(trained(common.network, part, steps, seed, rate=5e-3)) for seed, part in enumerate(own, 1)]


def _pairs(share: float) -> tuple[rg.Denoiser, rg.sites.Places, Callable[[int, int], Tensor], Tensor]:
    """The network of canvases with two digits, where its cross-attention is, how a pair is told, and the two halves."""
    from two_digits import halves, told, trained

    def tokens(one: int, other: int) -> Tensor:
        return told(torch.tensor([one]), torch.tensor([other]))[0]

    return *trained(max(1, round(500 * share))), tokens, halves()


NETWORKS: dict[str, Callable[[float], Any]] = {"classifier": _classifier, "parts": _parts, "pairs": _pairs}


def drawn(text: str, share: float = 1.0, only: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor, bool]]:
    """Run the lines of a page in order; yield for each heading its file name, what `made` is, and whether it was taught.

    Args:
        share: of the steps of training that networks are given.
        only: words, one of which the heading of a section that asks for training must hold; none for all sections.
    """
    names: dict[str, Any] = {"taught": lambda name: NETWORKS[name](share)}
    heading = ""
    for title, code in re.findall(r"^## ([^\n]+)$|^```python\n(.*?)^```$", text, re.M | re.S):
        if title:
            heading = re.sub(r"\W+", "-", title.lower()).strip("-")
            continue
        chosen = not only or any(word in heading for word in only)
        trains = "taught(" in code
        if trains and not chosen:
            continue
        torch.manual_seed(0)
        exec(compile(code, str(PAGE), "exec"), names)
        if heading and chosen:
            yield f"{heading}.png", names["made"], trains


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE.parent / "images" / "gallery")
    parser.add_argument("--only", nargs="*", default=())
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name, made, _ in drawn(PAGE.read_text(encoding="utf-8"), only=tuple(given.only)):
        mosaic(made.clamp(-1, 1), columns=min(6, len(made))).quantize(16).save(given.out / name, optimize=True)
        print(name, flush=True)


if __name__ == "__main__":
    main()
