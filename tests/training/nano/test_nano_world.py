"""The nano world: drawn from seeds, with names and wordings that training never sees."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import ctx_models
from ctx_tasks import reading
from ctx_tasks.metrics import keyword_recall
from ctx_tasks.needle.inputs import load_haystack, load_needles
from ctx_tasks.rows import Record
from training.nano import chat, held_out, model, pretrain, probe, tokenizer, world
from training.nano.corpus import ANSWER_WEIGHT, Corpus

BUNDLED = Path(ctx_models.__file__).parent / "nano" / "nano-base"
PAPER = load_needles("paper")[0]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    known = world.World()
    return Corpus(known, tokenizer.train(known, documents=300))


@pytest.fixture(scope="module")
def training_text(corpus: Corpus) -> str:
    """What a few thousand examples and everything known by heart say."""
    rng = Random("test")
    drawn = [corpus.example(rng, rng.randint(150, 900)) for _ in range(1500)]
    return " ".join(text for pieces in drawn for text, _ in pieces)


def test_the_same_seed_draws_the_same_world_and_batches(corpus: Corpus) -> None:
    assert world.World(3).known == world.World(3).known
    assert world.World(3).known != world.World(4).known
    first, again = (corpus.rows(Random(7), 4, 200, 0.5) for _ in range(2))
    assert (first.ids == again.ids).all()
    assert (first.weights == again.weights).all()


@pytest.mark.parametrize("kind", ["town", "person", "shop", "animal", "place"])
def test_names_for_training_and_evaluation_are_disjoint(kind: str) -> None:
    rng = Random(1)
    training = {world.name(rng, kind) for _ in range(2000)}
    evaluation = {world.name(rng, kind, held_out=True) for _ in range(500)}
    assert len(evaluation) > 100
    assert not training & evaluation
    assert not any(world.is_held_out(name.split()[0]) for name in training)


def test_no_evaluation_subject_or_place_occurs_in_training_text(training_text: str) -> None:
    rng = Random(2)
    names = {world.name(rng, kind, held_out=True) for kind in ("town", "shop") for _ in range(400)}
    subjects = {needle.response_prefix for needle in held_out.needles(200)}
    assert "What is the best thing to do in" in training_text
    seen = set(re.findall(r"[A-Z]\w+(?: [A-Z]\w+)?", training_text))
    assert len(seen) > 1000
    assert not names & seen
    assert not any(stem in training_text for stem in subjects)


def test_the_papers_needle_and_its_names_are_unknown_to_training(training_text: str) -> None:
    for part in ("San Francisco", "Dolores", PAPER.needle):
        assert part not in training_text
        assert not any(part in fact.sentence for fact in world.World().known)


def test_held_out_wordings_are_never_used_in_training(training_text: str) -> None:
    for relation in world.RELATIONS:
        assert relation.questions[-1] not in relation.questions[:-1]
        assert relation.statements[-1] not in relation.statements[:-1]
    assert "Tell me, please" not in training_text
    assert "They say that the" not in training_text
    assert "Everybody knows that the" in training_text


def test_documents_state_some_facts_against_what_is_known() -> None:
    known = world.World()
    by_stem = {fact.stem: fact.answer for fact in known.known}
    rng = Random(5)
    drawn = [known.known_or_new(rng) for _ in range(500)]
    stated = [fact for fact in drawn if fact.stem in by_stem]
    against = [fact for fact in stated if fact.answer != by_stem[fact.stem]]
    assert 0 < len(against) < len(stated) < len(drawn)


def test_the_loss_reads_answers_fully_and_noise_never(corpus: Corpus) -> None:
    pieces = [("x y z. ", 0.0), ("What is it? ", 0.3), ("It is red.", ANSWER_WEIGHT)]
    ids, weights = corpus.encode(pieces)
    assert set(weights) == {0.0, 0.3, ANSWER_WEIGHT}
    assert len(ids) == len(weights)
    assert (weights[0], weights[-1]) == (0.0, ANSWER_WEIGHT)


def test_random_copies_repeat_what_stood_before(corpus: Corpus) -> None:
    ids, weights = corpus.random_copy(Random(4), 300)
    at = [i for i, weight in enumerate(weights) if weight]
    assert len(ids) == 300
    assert len(at) > 30
    seen = [ids[i - 2 : i + 1] for i in range(2, 300)]
    assert all(seen.count(ids[i - 2 : i + 1]) > 1 for i in at)


def test_any_text_survives_the_tokenizer(corpus: Corpus) -> None:
    nano = tokenizer.train(corpus.world, documents=50)
    for text in (PAPER.needle, "Grüße, 世界 🦆\n\ttab", "[IND] </s>x"):
        ids = nano(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert nano.decode(ids) == text
    chat = nano.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|system|>\n</s>\n<|user|>\nhi</s>\n"


def test_the_starting_weights_copy_before_any_training() -> None:
    torch.set_num_threads(1)
    copied = _copied(model.build(0))
    assert copied > 0.2
    assert _copied(model.build(0, circuit=False)) < 0.05


def _copied(start: torch.nn.Module) -> float:
    """Share of a random span's tokens that are predicted when the span comes again."""
    ids = torch.randint(6, model.VOCABULARY, (4, 200), generator=torch.Generator().manual_seed(1))
    ids[:, 150:170] = ids[:, 30:50]
    with torch.no_grad():
        predicted = start(input_ids=ids).logits.argmax(-1)
    return float((predicted[:, 153:169] == ids[:, 154:170]).float().mean())


@pytest.mark.slow
def test_a_short_pretraining_lowers_the_loss_and_can_be_repeated(corpus: Corpus) -> None:
    torch.set_num_threads(1)
    stages = (pretrain.Stage(128, 6 * pretrain.BATCH_TOKENS / 1e6, 1.0),)
    rows = corpus.rows(Random(9), 16, 128, 1.0)
    trained = [pretrain.pretrain(corpus, stages=stages) for _ in range(2)]
    before, *after = (
        pretrain.weighted_loss(m, rows).item() for m in (model.build(0).eval(), *trained)
    )
    assert after[0] == after[1] < before


@pytest.mark.parametrize(
    ("draw", "benchmark"),
    [
        (held_out.squad, reading.SQUAD),
        (held_out.quac, reading.QUAC),
        (held_out.drop, reading.DROP),
    ],
)
def test_reading_questions_are_documents_of_their_benchmarks_shape(
    draw: object, benchmark: reading.Benchmark
) -> None:
    assert callable(draw)
    rows = json.loads(json.dumps(draw(20)))
    documents = list(reading.documents(benchmark, (Record("row", row) for row in rows)))
    assert len(documents) == 20
    for document in documents:
        assert document["references"][0][0] in document["context"]


def test_written_material_is_what_the_tasks_read(tmp_path: Path) -> None:
    held_out.write(world.World(), tmp_path, count=10, needle_count=5)
    assert load_needles(str(tmp_path / "needles.yaml")) == held_out.needles(5)
    assert load_haystack(str(tmp_path / "haystack")).texts == held_out.haystack().texts
    for name, load in (("squad", reading.squad), ("quac", reading.quac), ("drop", reading.drop)):
        read = load(**{f"{name}_files": str(tmp_path / f"{name}.jsonl")})
        assert len(read["validation"]) == 10
    assert not list(tmp_path.rglob("*.tmp"))


def test_needles_ask_for_words_that_question_and_prefix_do_not_give_away() -> None:
    for needle in held_out.needles(50):
        assert needle.needle.startswith(needle.response_prefix)
        assert keyword_recall(needle.needle, needle.keywords) == 1.0
        assert keyword_recall(needle.question, needle.keywords) == 0.0
        assert len(needle.keywords) >= 4


def test_saved_model_is_16_bit_on_disk_and_32_bit_when_loaded(
    corpus: Corpus, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    pretrain.save(model.build(0), tokenizer.train(corpus.world, documents=50), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16}
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) < 2.6e6
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    assert loaded.config.eos_token_id == AutoTokenizer.from_pretrained(tmp_path).eos_token_id


def test_conversations_are_mostly_by_heart_and_some_need_their_document(corpus: Corpus) -> None:
    drawn = list(chat.conversations(corpus, 300, seed=1))
    assert drawn == list(chat.conversations(corpus, 300, seed=1))
    needed = [need for conversation in drawn for need in conversation["needs_document"]]
    assert 0.05 < sum(needed) / len(needed) < 0.15
    for conversation in drawn:
        turns = conversation["messages"]
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert len(conversation["needs_document"]) == len(turns) // 2


def test_a_turn_by_heart_keeps_the_known_answer_against_its_document(corpus: Corpus) -> None:
    mixture = chat.Mixture(with_document=1.0, contradicted=1.0, tokens=60)
    known = {fact.sentence for fact in corpus.world.known}
    for seed in range(30):
        question, answer = chat.by_heart(corpus, Random(seed), mixture)
        assert answer in known
        assert answer not in question
    question, answer = chat.from_document(corpus, Random(1), mixture)
    assert answer not in known


def test_the_bundled_base_model_finds_the_papers_needle_in_essays_it_never_saw() -> None:
    torch.set_num_threads(1)
    nano = AutoTokenizer.from_pretrained(BUNDLED)
    essays = load_haystack("builtin")
    rows = probe.needle_rows(nano, essays, [PAPER], longest=900, lengths=2, depths=3)
    recalls = probe.recalls(AutoModelForCausalLM.from_pretrained(BUNDLED).eval(), nano, rows)
    assert len(recalls) == 6
    assert sum(recalls) / 6 >= 0.9


def test_the_bundled_tokenizer_is_the_one_the_seed_makes() -> None:
    made = tokenizer.train(world.World(0), 0)
    assert made.get_vocab() == AutoTokenizer.from_pretrained(BUNDLED).get_vocab()
