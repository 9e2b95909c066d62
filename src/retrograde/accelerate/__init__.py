"""Policies that reuse what a network computed before: transforms of the denoiser and columns of a plan."""

from retrograde.accelerate.blocks import BlockCache, SkipBlocks, block_cache, extrapolated, skip_blocks
from retrograde.accelerate.deepcache import DeepCache, deepcache
from retrograde.accelerate.profiled import magcache, magnitudes, steadiest
from retrograde.accelerate.schedule import centred, every, reuse
from retrograde.accelerate.thresholds import FirstBlock, TeaCache, first_block, teacache

__all__ = [
    "BlockCache",
    "DeepCache",
    "FirstBlock",
    "SkipBlocks",
    "TeaCache",
    "block_cache",
    "centred",
    "deepcache",
    "every",
    "extrapolated",
    "first_block",
    "magcache",
    "magnitudes",
    "reuse",
    "skip_blocks",
    "steadiest",
    "teacache",
]
