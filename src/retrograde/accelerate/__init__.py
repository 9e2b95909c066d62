"""Policies that reuse what a network computed before: transforms of the denoiser and columns of a plan."""

from retrograde.accelerate.annealed import annealed, one_by_one
from retrograde.accelerate.blocks import BlockCache, SkipBlocks, block_cache, extrapolated, skip_blocks
from retrograde.accelerate.cascade import cascade, entry, pixels, resized, stages
from retrograde.accelerate.deepcache import DeepCache, deepcache
from retrograde.accelerate.encoder import EncoderCache, decode_ahead, encoder_cache, inject
from retrograde.accelerate.exits import EarlyExit, Exits, early_exit, exits
from retrograde.accelerate.feedback import Feedback, InnerLoop, feedback, inner_loop
from retrograde.accelerate.fitted import ReuseFit, fit_reuse
from retrograde.accelerate.merging import MergedTokens, merge_tokens, merger
from retrograde.accelerate.picard import Swept, picard
from retrograde.accelerate.profiled import magcache, magnitudes, steadiest
from retrograde.accelerate.receding import receding, shifted
from retrograde.accelerate.resolution import SteadyEntropy, entropy_scale, steady_entropy
from retrograde.accelerate.savings import Saving, savings
from retrograde.accelerate.schedule import centred, every, reuse
from retrograde.accelerate.shared import SharedAttention, share_attention
from retrograde.accelerate.speculative import Speculated, reflected, speculative
from retrograde.accelerate.stream import arriving, changed, stream
from retrograde.accelerate.thresholds import FirstBlock, TeaCache, first_block, teacache

__all__ = [
    "BlockCache",
    "DeepCache",
    "EarlyExit",
    "EncoderCache",
    "Exits",
    "Feedback",
    "FirstBlock",
    "InnerLoop",
    "MergedTokens",
    "ReuseFit",
    "Saving",
    "SharedAttention",
    "SkipBlocks",
    "Speculated",
    "SteadyEntropy",
    "Swept",
    "TeaCache",
    "annealed",
    "arriving",
    "block_cache",
    "cascade",
    "centred",
    "changed",
    "decode_ahead",
    "deepcache",
    "early_exit",
    "encoder_cache",
    "entropy_scale",
    "entry",
    "every",
    "exits",
    "extrapolated",
    "feedback",
    "first_block",
    "fit_reuse",
    "inject",
    "inner_loop",
    "magcache",
    "magnitudes",
    "merge_tokens",
    "merger",
    "one_by_one",
    "picard",
    "pixels",
    "receding",
    "reflected",
    "resized",
    "reuse",
    "savings",
    "share_attention",
    "shifted",
    "skip_blocks",
    "speculative",
    "stages",
    "steadiest",
    "steady_entropy",
    "stream",
    "teacache",
]
