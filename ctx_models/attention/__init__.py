"""The one attention function: a bias per key, and the attention mass on each segment.

Registered with transformers' `AttentionInterface`, so every model family that uses the interface
is reached. Two things are added to `softmax(q k^T) v`, neither of which needs a T x T matrix:

* **Key bias.** A key outside the user's tokens gets `b_h` (= log alpha) added to its logit in head
  h. In a prefill the bias rides in extra channels, `[q, b_h / scale] . [k, outside]`, so the kernel
  still runs with `is_causal` and without a mask; padding is one more channel with a large negative
  value. torch's CPU kernel takes a mask row beside `is_causal`, which is cheaper still. A decode
  step has one query row and takes the bias as a plain mask row.
* **Segment mass.** `softmax(q k^T) @ 1[key in segment]`: the indicator columns ride beside the
  values in the same pass. For the last few queries, the mass on each key (`key_mass`) by rows.

Soft-capped logits, attention sinks, sliding windows shorter than the text and prefills on top of a
cache have no kernel that takes them; they run exactly, in blocks of query rows (`paths.py`).

A mask that a model asks for is a `Marker` (`mask.py`): it knows its own text, padding and rule of
visibility, so no mask can change the meaning of another. A mask that is none of ours is refused.
The naive version that judges this room is `reference.py`; `FAMILIES.md` lists the verdicts.
"""

from __future__ import annotations

from .interface import ctx_attention, ctx_mask
from .intervention import (
    NAME,
    Intervention,
    active_intervention,
    intervening,
    require_softmax_attention,
)
from .mass import key_mass, segment_mass

__all__ = [
    "NAME",
    "Intervention",
    "active_intervention",
    "ctx_attention",
    "ctx_mask",
    "intervening",
    "key_mass",
    "require_softmax_attention",
    "segment_mass",
]
