"""How far a verdict reaches: what few clusters, or large ones, cannot tell of others, in words.

The limits are those of the simulations (`tests/ctx_tasks/test_interval_coverage`,
`tests/ctx_tasks/gate/test_gate_statistics`); see `ctx_tasks.intervals`.
"""

from __future__ import annotations

from ctx_tasks.intervals import FEW_CLUSTERS, Clustering

# Of larger clusters on average, that fall as a whole, the intervals promise nothing ...
_LARGE = 13
# ... unless there are so many times k, where one in k falls: in 95 % of runs one is seen.
_SEEN = 3


def unsaid(clustering: Clustering, tolerated: float = 1.0) -> str:
    """What nothing is said about, without a full stop; "" where a verdict reaches beyond these.

    Args:
        tolerated: the share of clusters that may fall as a whole, unseen: a gate's margin.
    """
    count = clustering.count
    if clustering.few:
        unequal = f", as good as {int(clustering.evenly)} of one size"
        return (
            f"the documents lie in {count} clusters (needles or passages)"
            f"{unequal if count >= FEW_CLUSTERS else ''}: "
            f"what is said is about these {count}, and nothing about another"
        )
    if clustering.n > _LARGE * count and tolerated * count < _SEEN:
        return (
            f"the documents lie in {count} large clusters (needles or passages): "
            f"that one in {count // _SEEN} falls as a whole may go unseen"
        )
    return ""
