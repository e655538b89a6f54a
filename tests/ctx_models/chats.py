"""Chat templates and small tokenizers for the segment tests.

The templates in `templates/` are written for this project: the formats of fschat's llama-2,
mistral, zephyr and vicuna, those of llama-3, gemma and mistral-v3, and three that are hard to
follow (thinking, folding, repeating).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests import tiny

TEMPLATES = {
    path.stem: path.read_text(encoding="utf-8").rstrip("\n")
    for path in sorted((Path(__file__).parent / "templates").glob("*.jinja"))
}
CONTROL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[IND]",
)


def _wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _add_bos(backend: Tokenizer) -> None:
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as Qwen's and Llama-3's: several tokens for one character."""
    return tiny.tokenizer(extra_special_tokens=CONTROL)


def byte_fallback() -> PreTrainedTokenizerFast:
    """BPE with a dummy prefix and byte tokens, role tokens that swallow spaces: as Phi-3's."""
    letters = ["▁", *(chr(code) for code in range(33, 127))]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("l", "l"), ("e", "r"), ("▁", "▁"), (">", "~")]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocabulary = {name: i for i, name in enumerate([*names, *(a + b for a, b in merges)])}
    backend = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(["<unk>", "<s>"])
    # Phi-3 lists its end token as an ordinary one.
    backend.add_tokens([AddedToken("</s>", rstrip=True, normalized=False)])
    backend.add_special_tokens([AddedToken(token, rstrip=True) for token in CONTROL[:5]])
    backend.add_special_tokens(list(CONTROL[5:]))
    _add_bos(backend)
    return _wrapped(backend)


def unigram() -> PreTrainedTokenizerFast:
    """Unigram pieces, the control tokens among them: plain text would match them."""
    letters = ["▁", "\n", *(chr(code) for code in range(33, 127)), "▁the", "er"]
    pieces = [("<unk>", 0.0), *((token, -1.0) for token in ("<s>", "</s>", *CONTROL))]
    pieces += [(letter, -3.0) for letter in letters]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.add_special_tokens(["<unk>", "<s>", "</s>", *CONTROL])
    _add_bos(backend)
    return _wrapped(backend)


TOKENIZERS = {"byte_level": byte_level, "byte_fallback": byte_fallback, "unigram": unigram}


@functools.cache
def with_template(tokenizer: str, template: str) -> Any:
    """A small tokenizer with one of our templates; do not change it."""
    fast = TOKENIZERS[tokenizer]()
    fast.chat_template = TEMPLATES[template]
    return fast


def real_data() -> Path:
    """The folder of public samples; its absence fails the tests that need it."""
    return Path(os.environ["CTX_REAL_DATA"])


@functools.cache
def real_templates() -> dict[str, str]:
    """Our templates and the published ones."""
    folder = real_data() / "templates"
    published = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.jinja")}
    assert len(published) >= 4
    return TEMPLATES | published


@functools.cache
def real_tokenizer(folder: str) -> Any:
    """A published tokenizer; the caller sets its template."""
    return AutoTokenizer.from_pretrained(real_data() / "tokenizers" / folder)
