"""Marks on their way: in a row through the harness, in `extra_args`, in token ids."""

from __future__ import annotations

import pickle

import pytest

from ctx_models.engine import wire
from ctx_models.engine.rows import Ready, Row

USER = [False, True, True, False, False]
IDS = [5, 6, 7, 8, 131_000]


@pytest.mark.parametrize("steer_generated", [True, False])
def test_a_token_s_mark_comes_back_out_of_its_id(steer_generated):
    given = wire.request(USER, steer_generated, "arm")
    ids = wire.marked(IDS, given)
    assert [one & wire.IDS for one in ids] == IDS
    # What a worker makes of it: a token is steered unless it is the user's.
    steered = [((one & wire.MARK) != 0) ^ steer_generated for one in ids]
    assert steered == [not one for one in USER]
    # A generated token has no mark.
    assert (False ^ steer_generated) == steer_generated


def test_marked_ids_fit_the_engine_s_int32():
    assert max(wire.marked([wire.IDS], wire.request([True], True, ""))) < 2**31


class TestRow:
    def test_keeps_the_user_s_tokens_through_cuts_and_joins(self):
        row = Row.of(IDS, USER, "prompt", len(IDS))
        assert row[-3:].user == [True, False, False]
        middle = row[:2] + row[-2:]
        assert (middle, middle.user) == ([5, 6, 8, 131_000], [False, True, False, False])
        assert (middle.prompt, middle.cut) == ("prompt", 1)

    def test_takes_plain_ids_as_the_model_s(self):
        assert Row.of(IDS, USER).__add__([9]).user == [*USER, False]

    def test_is_a_list_to_whoever_looks_at_it(self):
        row = Row.of(IDS, USER)
        assert row == IDS
        assert row[1] == 6
        assert tuple(row) == tuple(IDS)

    def test_stays_with_its_prompt(self):
        ready = Ready.of(Row.of(IDS, USER, "prompt", 9))
        assert ready == "prompt"
        assert pickle.loads(pickle.dumps(ready)).row.cut == 4
