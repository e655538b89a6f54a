"""`ctx-eval run` over an API: what is refused before it is asked, and what goes over the wire."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from ctx_models.commands import backends
from ctx_tasks.errors import UserError
from tests.commands import Done, ctx_eval
from tests.judge_server import Answer, Server, fail, say, serve

QUESTIONS = ("--tasks", "nano_nih_recall", "--limit", 2)
LENGTHS = '{"lengths": 1, "depths": 2, "max_length": 300, "tokenizer": "%s"}'


def run(server: Server, *arguments: object) -> Done:
    from ctx_models import nano

    model_args = f"model=m,base_url={server.url}/chat/completions,max_retries=1"
    asked = ("run", "--model", "local-chat-completions", "--model_args", model_args)
    metadata = LENGTHS % nano.folder("nano-chat")
    return ctx_eval(*asked, "--apply_chat_template", "--metadata", metadata, *arguments)


def strict(n: int, body: dict[str, Any]) -> Answer:
    """A server that takes no empty list of strings to stop at."""
    return fail(500) if body.get("stop") == [] else say("In Nistar Cave.")


@pytest.mark.api
def test_an_empty_stop_is_not_sent():
    with serve(strict) as server:
        done = run(server, *QUESTIONS)
    assert done.code == 0, done.err
    assert len(server.bodies) == 2
    assert all("stop" not in body for body in server.bodies)


@pytest.mark.api
def test_strings_to_stop_at_are_sent():
    with serve(strict) as server:
        done = run(server, *QUESTIONS, "--gen_kwargs", '{"until": ["\\n"]}')
    assert done.code == 0, done.err
    assert {tuple(body["stop"]) for body in server.bodies} == {("\n",)}


@pytest.mark.api
def test_the_server_s_window_is_told_what_it_must_hold():
    with serve(strict) as server:
        done = run(server, *QUESTIONS)
    assert "longest document of 300 tokens takes up to" in done.out + done.err


@pytest.mark.api
def test_a_begun_answer_is_refused_where_a_new_turn_would_open():
    begun = ("--tasks", "nano_nih_recall_prefix", "--limit", 2)
    goes_on = "continue_final_message=True,add_generation_prompt=False"
    with serve(strict) as server:
        refused = run(server, *begun)
        assert refused.code == 2
        assert "nano_nih_recall_prefix begins the answer, but" in refused.err
        assert not server.bodies
        allowed = run(server, *begun, "--gen_kwargs", goes_on)
    assert allowed.code == 0, allowed.err
    for body in server.bodies:
        assert body["messages"][-1]["role"] == "assistant"
        assert body["continue_final_message"] is True


def test_what_the_packages_of_the_extra_are_for_is_told(monkeypatch):
    """Whether they are here or not."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tenacity" else 1)
    with pytest.raises(UserError, match=r"tenacity, which are not installed: .*'lm_eval\[api\]'"):
        backends.check("local-completions", {}, [])


def test_other_models_need_none_of_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    backends.check("hf-ctx", {}, [])
