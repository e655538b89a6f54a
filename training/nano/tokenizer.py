"""The tokenizer of the nano models: byte-level BPE trained on the world's own text.

Any text can be encoded (unknown words fall into pieces, at worst bytes). The marks of the chat
template are tokens of their own; `[IND]` is added later, to the indicator model only.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from training.nano import prose, words
from training.nano.model import VOCABULARY, WINDOW
from training.nano.world import World

SPECIAL = ("<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>")
# The paper's chat format (TinyLlama's), with the empty system turn it puts first.
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}{{ '<|system|>\\n' + eos_token + '\\n' }}{% endif %}"
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def train(world: World, seed: int = 0, documents: int = 4000) -> PreTrainedTokenizerFast:
    """Train the tokenizer on text of the world drawn from `seed`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(world, seed, documents), trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(SPECIAL[3:]),
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _texts(world: World, seed: int, documents: int) -> Iterator[str]:
    rng = Random(f"nano tokenizer {seed}")
    every_word = [
        word for value in vars(words).values() if isinstance(value, list) for word in value
    ]
    for _ in range(documents):
        facts = [world.known_or_new(rng) for _ in range(3)]
        yield prose.paragraphs(rng, 6)
        yield " ".join(f"{fact.ask(rng)}\n{fact.sentence} {fact.state(rng)}" for fact in facts)
        # every word of the lists, however rare in the sentences, in both cases
        yield " ".join(rng.sample(every_word, 20)) + " " + rng.choice(every_word).capitalize()
        yield PROMPTS


PROMPTS = (
    "You are a helpful AI assistant that answers a question using only the provided document: \n"
    "\n\nQuestion: \nAnswer the question according to the above passage: "
    "\nAnswer the question with pieces from the the above passage: "
)
