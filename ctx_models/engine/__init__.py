"""`vllm-ctx`: the harness's `vllm` model with steering and `[IND]`, and what it does to vLLM.

No engine has a bias per key, and none hands a model more of a token than its id. So a token's
segment travels in its id, inside the engine only, and the bias in two more channels of each head:

    lm.py            marks the user's tokens of a prompt, in `SamplingParams.extra_args` (`wire.py`)
    core_patch.py    engine core: puts the marks into the ids (bit 28), so that the scheduler, the
                     block hashes of the prefix cache, preemption and chunks carry them for nothing
    worker_patch.py  worker: takes the bit out again at the embedding, one flag a token in a buffer;
                     widens every attention layer: bias / scale in two channels of the query, the
                     flag in the same of the key, zeros in the value, and cuts the output
    worker.py        what the driver asks of workers: which arm they are in, what they hold

A logit bias b of a flagged key is then `[q, b / scale] . [k, 1]`, which any attention kernel
computes. The channels are FlashBias (Wu et al., NeurIPS 2025, arXiv 2505.12044) at rank one; the
second channel holds what a half-precision first one rounds away.
"""
