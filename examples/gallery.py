"""Draw the pictures of docs/gallery.md: run its lines in order, and show what `made` is after those under each heading.

python examples/gallery.py [--out docs/images/gallery]
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from retrograde.cli.pictures import mosaic

PAGE = Path(__file__).parents[1] / "docs" / "gallery.md"


def drawn(text: str) -> Iterator[tuple[str, Tensor]]:
    """Run the lines of a page in order; yield for each heading its file name and what `made` is after its lines."""
    names: dict[str, Any] = {}
    heading = ""
    for title, code in re.findall(r"^## ([^\n]+)$|^```python\n(.*?)^```$", text, re.M | re.S):
        if title:
            heading = re.sub(r"\W+", "-", title.lower()).strip("-")
            continue
        exec(compile(code, str(PAGE), "exec"), names)
        if heading:
            yield f"{heading}.png", names["made"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE.parent / "images" / "gallery")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, made in drawn(PAGE.read_text(encoding="utf-8")):
        mosaic(made.clamp(-1, 1), columns=min(6, len(made))).quantize(16).save(out / name, optimize=True)
        print(name, flush=True)


if __name__ == "__main__":
    main()
