"""Finding the places of a network by its pattern: the UNets and transformers of diffusers, and our own."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from retrograde.errors import BadType
from retrograde.sites.doors import Call, bare
from retrograde.sites.places import Block, Ladder, Places, shortcut, streams, through

_CHAINS = (
    "transformer_blocks",
    "single_transformer_blocks",
    "blocks",
    "layers",
    "transformer_layers",
    "double_blocks",
    "visual_transformer_blocks",
    "temporal_transformer_blocks",
)
"""Names that chains of blocks have in transformers, in the order in which they run."""


def find(network: Any) -> Places:
    """Return the places of a network: `retrograde.nets.UNet`, the UNets and transformers of diffusers, or alike ones.

    A UNet has `enter`/`down`/`middle`/`up` (ours) or `conv_in`/`down_blocks`/`mid_block`/`up_blocks` (diffusers). A
    transformer has a list of blocks under one of the usual names. A module that only wraps one is looked into. Of others
    give the places by name or by pattern, `rg.sites.Places(network, chain=rg.sites.chain(network, "encoder.*"))`.

    Raises:
        BadType: no module, or a module without a known pattern.
    """
    network = bare(network)
    if not isinstance(network, nn.Module):
        raise BadType(f"{network!r}", "a torch.nn.Module", "pass the network itself, or rg.sites.Places(network, ...)")
    found = _known(network)
    wrapped = network
    while found is None and len(children := list(wrapped.children())) == 1:
        wrapped = children[0]
        found = _known(wrapped)
    if found is not None:
        return found
    raise BadType(
        f"{type(network).__name__}, of no known pattern",
        "a UNet or a transformer with a list of blocks",
        'name its places: rg.sites.Places(network, chain=rg.sites.chain(network, "encoder.*"))',
    )


def _known(network: Any) -> Places | None:
    """Return the places of a network whose pattern is known, or None."""
    attends = [name for name, module in network.named_modules() if _is_attention(module)]
    cross = tuple(name for name in attends if name.endswith("attn2"))
    attention = tuple(name for name in attends if name not in cross)
    if all(hasattr(network, part) for part in ("enter", "down", "shrink", "middle", "up", "grow")):
        return _own_unet(network, attention)
    if all(hasattr(network, part) for part in ("conv_in", "down_blocks", "mid_block", "up_blocks")):
        return _unet(network, attention, cross)
    blocks = [
        Block(f"{name}.{k}", _bypass(block))
        for name in _CHAINS
        if isinstance(getattr(network, name, None), nn.ModuleList)
        for k, block in enumerate(getattr(network, name))
    ]
    return Places(network, tuple(blocks), tuple(blocks), attention, cross) if blocks else None


def _is_attention(module: nn.Module) -> bool:
    """Whether a module is the whole of one attention: it attends itself, and nothing in it does."""
    if not type(module).__name__.endswith(("Attention", "MultiheadAttention")):
        return False
    return not any(_is_attention(child) for child in module.children())


def _bypass(block: nn.Module) -> Callable[[Call], Any]:
    """Return how a block of a transformer is left out: it hands on those of its arguments that it returns changed.

    Blocks over text and image return both, in an order of their own; it is read off the block's last return statement.
    """
    parameters = tuple(inspect.signature(block.forward).parameters)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(block).forward)))
    except (OSError, TypeError):
        return through
    returned = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)][-1:]
    match returned:
        case [ast.Tuple(elts=parts) as answer]:
            names = tuple(part.id for part in parts if isinstance(part, ast.Name))
            if len(names) != len(parts) or not set(names) <= set(parameters):
                raise BadType(
                    f"{type(block).__name__}, which returns {ast.unparse(answer)}",
                    "blocks that return the arguments they changed",
                    "rg.sites.Places(network, chain=(rg.sites.Block(name, bypass), ...)) with bypasses of your own",
                )
            return streams(names, parameters)
    return through


def _own_unet(network: Any, attention: Sequence[str]) -> Places:
    makes: list[tuple[str, ...]] = [("enter",)]
    blocks: list[Block] = []
    for k, level in enumerate(network.down):
        makes += [(f"shrink.{k - 1}",)] if k > 0 else []
        makes += [(f"down.{k}.{i}",) for i in range(len(level))]
        blocks += [Block(f"down.{k}.{i}", shortcut("shortcut")) for i in range(len(level))]
    blocks.append(Block("middle", shortcut("shortcut")))
    takes: list[tuple[str, ...]] = []
    for k, level in enumerate(network.up):
        ends = [(f"grow.{k}",)] if k < len(network.grow) else [()]
        after = [()] * (len(level) - 1) + ends
        takes += [(f"up.{k}.{i}", *after[i]) for i in range(len(level))]
        blocks += [Block(f"up.{k}.{i}", shortcut("shortcut")) for i in range(len(level))]
    return Places(network, (), tuple(blocks), tuple(attention), (), Ladder(tuple(makes), ("middle",), tuple(takes[::-1])))


def _unet(network: Any, attention: Sequence[str], cross: Sequence[str]) -> Places:
    makes: list[tuple[str, ...]] = [("conv_in",)]
    blocks: list[Block] = []
    whole: list[tuple[str, tuple[str, ...]]] = []
    for k, block in enumerate(network.down_blocks):
        layers = _layers(f"down_blocks.{k}", block, blocks)
        ends = [(f"down_blocks.{k}.downsamplers.{i}",) for i in range(len(block.downsamplers or []))]
        makes += [*layers, *ends]
        whole.append((f"down_blocks.{k}", tuple(site for part in (*layers, *ends) for site in part)))
    middle = () if network.mid_block is None else ("mid_block",)
    blocks += [Block("mid_block", through)] if middle else []
    takes: list[tuple[str, ...]] = []
    for k, block in enumerate(network.up_blocks):
        layers = _layers(f"up_blocks.{k}", block, blocks)
        ends = tuple(f"up_blocks.{k}.upsamplers.{i}" for i in range(len(block.upsamplers or [])))
        layers[-1] = (*layers[-1], *ends)
        takes += layers
        whole.append((f"up_blocks.{k}", tuple(site for part in layers for site in part)))
    if len(makes) != len(takes):
        raise BadType(
            f"{type(network).__name__} with {len(makes)} skip connections made and {len(takes)} taken",
            "a UNet that takes each of its skip connections once",
            "name its places: rg.sites.Places(network, ladder=rg.sites.Ladder(...))",
        )
    ladder = Ladder(tuple(makes), middle, tuple(takes[::-1]), tuple(whole))
    return Places(network, (), tuple(blocks), tuple(attention), tuple(cross), ladder)


def _layers(name: str, block: Any, blocks: list[Block]) -> list[tuple[str, ...]]:
    """Return the layers of a container, each a residual block and the attention after it; blocks are listed on the way."""
    found: list[tuple[str, ...]] = []
    attentions = getattr(block, "attentions", None) or []
    for i in range(len(block.resnets)):
        layer = [f"{name}.resnets.{i}"]
        blocks.append(Block(layer[0], shortcut("conv_shortcut")))
        if i < len(attentions):
            layer.append(f"{name}.attentions.{i}")
            blocks.append(Block(layer[1], _as_tuple))
        found.append(tuple(layer))
    return found


def _as_tuple(call: Call) -> Any:
    """Bypass of the attention of a UNet, which answers with a tuple if it is asked for one."""
    return (through(call),) if call.kwargs.get("return_dict") is False else through(call)
