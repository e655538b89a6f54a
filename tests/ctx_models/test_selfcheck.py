"""The self-check passes good models quickly and tells wrong masks, on either path, by name."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ctx_models.arm import read_arm
from ctx_models.attention import active_intervention, intervention, paths
from ctx_models.lm import CtxLM
from ctx_models.selfcheck import SelfCheck
from ctx_tasks.arm import Arm
from ctx_tasks.errors import UserError
from tests import tiny
from tests.ctx_models.test_steering import GEMMA4, LLAMA4

_KNOWN = {
    "llama": {},
    "mistral": {"sliding_window": 1024},
    "gemma2": {},
    "gemma4_text": GEMMA4,
    "llama4_text": LLAMA4,
    "gpt_neox": {},
}
# transformers 5.4, the lowest we take, has no Gemma 4.
FAMILIES = {name: settings for name, settings in _KNOWN.items() if name in CONFIG_MAPPING}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_model_passes_on_both_paths(family: str, dtype: torch.dtype) -> None:
    model = tiny.model(family, **FAMILIES[family]).to(dtype)
    check = SelfCheck(model)
    assert check.plain_padding_error is check.steered_padding_error is None
    check.require_steering()


def test_it_leaves_no_trace() -> None:
    model = tiny.model("mistral", sliding_window=1024)
    SelfCheck(model).require_steering()
    assert model.config.sliding_window == 1024
    assert model.config._attn_implementation == "sdpa"
    assert active_intervention(model) is None


@pytest.fixture
def wrong_plain_mask():
    """transformers' mask, made wrong where the padded length is 1 modulo 32, as on CUDA."""

    def mask(*args, attention_mask=None, **kwargs):
        if attention_mask is not None and attention_mask.shape[1] % 32 == 1:
            attention_mask = None
        return sdpa_mask(*args, attention_mask=attention_mask, **kwargs)

    AttentionMaskInterface.register("sdpa", mask)
    yield
    AttentionMaskInterface.register("sdpa", sdpa_mask)


def test_a_wrong_plain_path_is_named(wrong_plain_mask) -> None:
    check = SelfCheck(tiny.model())
    assert "The plain path (sdpa) of llama gives a row padded to" in check.plain_padding_error
    check.require_steering()


def test_a_plain_path_that_gives_nan_is_named(monkeypatch) -> None:
    model = tiny.model()
    check = SelfCheck(model)
    padded = check._padded
    monkeypatch.setattr(check, "_padded", lambda *args: padded(*args) * torch.nan)
    assert "(apart by inf%" in check.plain_padding_error


_WRONG = {
    "one row sees past its window": ("gemma4_text", paths, "_visible_row", lambda _: None),
    "one row sees past its chunk": ("llama4_text", paths, "_visible_row", lambda _: None),
}


@pytest.mark.parametrize(
    ("family", "module", "part", "wrong"),
    [pytest.param(*case, id=name) for name, case in _WRONG.items() if case[0] in FAMILIES],
)
def test_a_wrong_steered_path_is_refused_by_name(family, module, part, wrong, monkeypatch) -> None:
    check = SelfCheck(tiny.model(family, **FAMILIES[family]))
    monkeypatch.setattr(module, part, wrong)
    with pytest.raises(UserError, match=f"Attention of {family} cannot be steered: at an alpha"):
        check.require_steering()


def test_a_steered_path_that_forgets_padding_is_named(monkeypatch) -> None:
    check = SelfCheck(tiny.model())
    monkeypatch.setattr(intervention, "_padded", lambda *_: None)
    assert "The steered path of llama gives a row padded to" in check.steered_padding_error
    assert check.plain_padding_error is None
    check.require_steering()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.tokenizer().save_pretrained(folder)
    tiny.model("llama").save_pretrained(folder)
    return str(folder)


def test_hf_ctx_runs_prompts_alone_where_padding_is_wrong_and_says_so_once(
    checkpoint, wrong_plain_mask, caplog
) -> None:
    model = CtxLM(checkpoint, alpha=0.5, batch_size=4, device="cpu")
    assert model.batch_size == 1
    assert [r.message for r in caplog.records if "every prompt is run alone" in r.message] != []
    assert sum("every prompt is run alone" in record.message for record in caplog.records) == 1


def test_hf_ctx_keeps_its_batch_size_where_padding_is_right(checkpoint) -> None:
    assert CtxLM(checkpoint, batch_size=4, device="cpu").batch_size == 4


def test_hf_ctx_steers_prompts_alone_where_the_steered_path_forgets_padding(
    checkpoint, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(intervention, "_padded", lambda *_: None)
    assert CtxLM(checkpoint, alpha=0.5, batch_size=4, device="cpu").batch_size == 1
    model = CtxLM(checkpoint, batch_size=4, device="cpu")
    assert model.batch_size == 4
    for alpha in (0.5, 0.9):
        model.set_arm(read_arm(Arm(alpha=alpha)))
        assert model.batch_size == 1
    # Once a model.
    assert sum("every prompt is run alone" in record.message for record in caplog.records) == 2


def test_hf_ctx_refuses_to_steer_where_the_steered_path_is_wrong(checkpoint, monkeypatch) -> None:
    monkeypatch.setattr(SelfCheck, "_allowed", -1.0)
    with pytest.raises(UserError, match="Attention of llama cannot be steered"):
        CtxLM(checkpoint, alpha=0.5, device="cpu")


def test_a_model_is_checked_once(checkpoint, monkeypatch) -> None:
    model = CtxLM(checkpoint, alpha=0.5, device="cpu")
    monkeypatch.setattr(SelfCheck, "_allowed", -1.0)
    model._check_model()
