"""Draw docs/images/fill_in_digits.png: the lower halves of digits, from a network that was never told the upper ones.

python examples/fill_in_digits.py --out docs/images/fill_in_digits.png
"""

import argparse
from pathlib import Path

import torch

import retrograde as rg
from retrograde.cli.pictures import labelled, png


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    out, steps = vars(parser.parse_args()).values()
    den = rg.load("digits")
    images, labels = rg.data.digits("test")
    # the first of each class
    y = torch.stack([images[labels == c][0] for c in range(10)]).reshape(10, 1, 28, 28)
    upper = (torch.arange(28) < 14)[:, None]
    strips = [("digits", y), ("what is known of them", torch.where(upper, y, 0.0))]
    corrected = rg.plan("predictor_corrector", den.path, nfe=2 * steps + 1, predictor="ancestral", snr=0.3)
    for name, plan in (("predictor alone", rg.plan("ddpm", den.path, nfe=2 * steps + 1)), ("and corrector", corrected)):
        it = rg.controllers.replacement(plan.path, y, upper)
        made = rg.sample(den, plan, n=len(y), seed=0, controllers=[it])
        strips.append((f"filled in, {name}, {plan.nfe} evaluations", made))
    out.write_bytes(png(labelled(strips)))


if __name__ == "__main__":
    main()
