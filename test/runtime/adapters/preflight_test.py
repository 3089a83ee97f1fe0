"""Which adapters are served: the good ones, and each way to be bad with the words that the user reads."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.adapters import safetensors
from runtime.adapters.preflight import CONFIG, RANKS, WEIGHTS, Invalid, base_tensors, check, lora_rank
from runtime.adapters.safetensors import Tensor, is_finite
from test.runtime.adapters.made import BASE, Q_PROJ, lora, write_adapter, write_safetensors


@pytest.fixture
def base(tmp_path: Path) -> dict[str, Tensor]:
    (tmp_path / "base").mkdir()
    write_safetensors(tmp_path / "base" / "model.safetensors", BASE)
    return base_tensors(tmp_path / "base")


def refusal(folder: Path, base: dict[str, Tensor]) -> str:
    with pytest.raises(Invalid) as caught:
        check(folder, base)
    return str(caught.value)


def test_a_good_adapter_passes_with_its_rank(tmp_path: Path, base: dict[str, Tensor]) -> None:
    folder = write_adapter(tmp_path / "good", rank_pattern={"o_proj": 32})
    checked = check(folder, base)
    assert (checked.path, checked.rank, checked.warnings) == (folder, 32, ())


def test_an_image_volume_shows_the_adapter_one_folder_deeper(tmp_path: Path, base: dict[str, Tensor]) -> None:
    write_adapter(tmp_path / "mounted" / "data")
    assert check(tmp_path / "mounted", base).path == tmp_path / "mounted" / "data"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"peft_type": "IA3"}, "peft_type is IA3"),
        ({"use_dora": True}, "does not support DoRA"),
        ({"lora_bias": True}, "does not support LoRA bias"),
        ({"bias": "all"}, "bias='all'"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
        ({"layer_replication": [[0, 1]]}, "layer replication"),
        ({"modules_to_save": ["lm_head"]}, "fully trained modules (modules_to_save: lm_head)"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"r": 513}, "rank 513 is more than the 512"),
        ({"r": 0}, "positive whole numbers"),
        ({"r": None}, "positive whole numbers"),
        ({"lora_alpha": None}, "lora_alpha is missing"),
    ],
)
def test_what_vllm_cannot_serve_is_named(
    tmp_path: Path, base: dict[str, Tensor], config: dict[str, Any], told: str
) -> None:
    assert told in refusal(write_adapter(tmp_path / "bad", **config), base)


@pytest.mark.parametrize("config", [{"use_rslora": True}, {"init_lora_weights": "gaussian"}, {"modules_to_save": None}])
def test_what_vllm_does_serve_passes(tmp_path: Path, base: dict[str, Tensor], config: dict[str, Any]) -> None:
    assert check(write_adapter(tmp_path / "good", **config), base).rank == 4


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({}, "holds no tensors"),
        ({"classifier.weight": ("BF16", (2, 2), None)}, "'classifier.weight', which is not part of a LoRA adapter"),
        (lora(Q_PROJ, wide=9), "6x9 in the adapter and 6x8 in the base model"),
        (lora("model.layers.0.self_attn.qkv_proj"), "qkv_proj does not exist in the base model"),
        ({f"{Q_PROJ}.lora_A.weight": ("BF16", (4, 8), None)}, "lora_A and lora_B must both be there"),
        (lora(Q_PROJ) | {f"base_model.model.{Q_PROJ}.lora_A.weight": ("BF16", (5, 8), None)}, "lora_A has rank 5"),
        (lora(Q_PROJ, data=bytes(6 * 4 * 2)), "every lora_B is zero"),
        (lora(Q_PROJ, data=b"\xc0\x7f" + bytes(46)), "lora_B.weight holds numbers that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, base: dict[str, Tensor], tensors: dict[str, Any], told: str
) -> None:
    assert told in refusal(write_adapter(tmp_path / "bad", tensors), base)


def test_damaged_or_missing_files_are_told_apart(tmp_path: Path, base: dict[str, Tensor]) -> None:
    assert f"{CONFIG} is missing" in refusal(tmp_path / "absent", base)
    folder = write_adapter(tmp_path / "cut")
    weights = folder / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-3])
    assert "incomplete or damaged" in refusal(folder, base)
    weights.write_bytes(b"\xff" * 20)
    assert "is not a safetensors file" in refusal(folder, base)
    weights.unlink()
    assert f"{WEIGHTS} is missing" in refusal(folder, base)
    (folder / CONFIG).write_text("{")
    assert f"{CONFIG} cannot be read" in refusal(folder, base)
    shutil.rmtree(folder)


def test_a_volume_that_fails_while_it_is_read_is_the_adapters_fault(
    tmp_path: Path, base: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_adapter(tmp_path / "good")
    monkeypatch.setattr(safetensors, "contents", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    assert "cannot be read: [Errno 5] Input/output error" in refusal(folder, base)
    monkeypatch.setattr(Path, "is_file", Mock(side_effect=OSError(errno.ESTALE, "Stale file handle")))
    assert "cannot be read: [Errno 116] Stale file handle" in refusal(folder, base)


def tensors_of(*modules: str) -> dict[str, Tensor]:
    return {f"{module}.weight": Tensor("BF16", (6, 8), 0, 96) for module in modules}


WHOLE = "model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("trained", "served"), [(WHOLE, Q_PROJ), (Q_PROJ, WHOLE), ("layers.0.self_attn.q_proj", WHOLE)]
)
def test_another_beginning_of_the_name_is_found_in_the_base(trained: str, served: str, tmp_path: Path) -> None:
    """vLLM maps some models' names and not others', and an adapter whose names it does not know does nothing."""
    checked = check(write_adapter(tmp_path / "renamed", lora(trained)), tensors_of(served))
    assert (checked.names, checked.warnings) == ({trained: served}, ())


def test_a_draft_head_and_a_vision_tower_with_layers_of_the_same_names_are_not_mistaken(tmp_path: Path) -> None:
    inner = [f"layers.{number}.self_attn.q_proj" for number in range(3)]
    base = tensors_of(*(f"model.language_model.{name}" for name in inner), f"mtp.{inner[0]}")
    base |= {f"model.visual.{name}.weight": Tensor("BF16", (7, 7), 0, 98) for name in inner}
    adapter = [tensor for name in inner for tensor in lora(f"model.{name}").items()]
    checked = check(write_adapter(tmp_path / "a", dict(adapter)), base)
    assert checked.names == {f"model.{name}": f"model.language_model.{name}" for name in inner}
    assert checked.warnings == ()


def test_a_name_that_could_mean_two_modules_is_a_warning_and_stays(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", lora("layers.0.self_attn.q_proj"))
    checked = check(folder, tensors_of(Q_PROJ, WHOLE))
    assert checked.names == {}
    assert "names layers.0.self_attn.q_proj (and 0 more modules) differently" in checked.warnings[0]


def test_embeddings_and_experts_move_with_the_layers_and_the_head_stays(tmp_path: Path) -> None:
    expert = "layers.0.mlp.experts.7.up_proj"
    base = tensors_of(WHOLE, "model.language_model.embed_tokens", "lm_head")
    base["model.language_model.layers.0.mlp.experts.gate_up_proj"] = Tensor("BF16", (8, 6, 8), 0, 768)
    mine = lora(Q_PROJ) | lora(f"model.{expert}") | lora("model.embed_tokens") | lora("lm_head")
    assert check(write_adapter(tmp_path / "a", mine), base).names == {
        Q_PROJ: WHOLE,
        f"model.{expert}": f"model.language_model.{expert}",
        "model.embed_tokens": "model.language_model.embed_tokens",
    }


def test_a_quantised_base_has_other_shapes_and_its_modules_count_all_the_same(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {f"{Q_PROJ}.qweight": ("U8", (3, 3), None)})
    assert check(write_adapter(tmp_path / "adapter"), base_tensors(tmp_path)).rank == 4


def test_an_adapter_of_another_model_is_a_warning_where_only_names_say_so(
    tmp_path: Path, base: dict[str, Tensor]
) -> None:
    folder = write_adapter(tmp_path / "a", base_model_name_or_path="org/Phi-3-mini")
    assert check(folder, base, "mirror/phi-3-mini").warnings == ()
    assert "trained on org/Phi-3-mini, the served model is org/llama" in check(folder, base, "org/llama").warnings[0]


@pytest.mark.parametrize(
    ("trained_on", "served"),
    [
        ("mistralai/Mistral-7B-v0.3", "mistral-7b"),  # a preset's name is no hub id
        ("mistral-7b", "mistralai/Mistral-7B-v0.3"),
        ("/workspace/weights", "org/llama"),
        ("./checkpoints/llama", "org/llama"),
        ("runs/2024/llama", "org/phi"),  # a relative path: a hub id has one slash
        ("", "org/llama"),
        ("org/llama", ""),
    ],
)
def test_names_are_compared_only_where_both_are_hub_ids(
    trained_on: str, served: str, tmp_path: Path, base: dict[str, Tensor]
) -> None:
    folder = write_adapter(tmp_path / "a", base_model_name_or_path=trained_on)
    assert check(folder, base, served).warnings == ()


def test_a_base_without_safetensors_is_not_compared(tmp_path: Path) -> None:
    assert check(write_adapter(tmp_path / "adapter"), base_tensors(tmp_path / "nothing")).rank == 4


@given(st.lists(st.integers(1, 512)))
def test_the_engines_rank_is_the_smallest_that_fits_all(ranks: list[int]) -> None:
    chosen = lora_rank(ranks)
    assert chosen in RANKS
    assert all(rank <= chosen for rank in ranks)
    assert not [rank for rank in RANKS if rank < chosen and all(own <= rank for own in ranks)]


@pytest.mark.parametrize(
    ("dtype", "data", "finite"),
    [
        ("BF16", b"\x80\x3f", True),  # 1.0
        ("BF16", b"\x80\xff", False),  # -inf
        ("F16", b"\xff\x7b", True),  # 65504, the largest
        ("F16", b"\x00\x7e", False),  # nan
        ("F32", b"\x00\x00\x80\x3f", True),
        ("F32", b"\x00\x00\xc0\x7f", False),
        ("U8", b"\xff", True),
    ],
)
def test_finite_numbers_are_known_by_their_top_byte(dtype: str, data: bytes, finite: bool) -> None:
    assert is_finite(dtype, data) == finite


def test_the_base_is_all_shards_of_the_model(tmp_path: Path) -> None:
    for number, name in enumerate(("a.weight", "b.weight")):
        write_safetensors(tmp_path / f"model-{number}.safetensors", {name: ("F32", (1, 2), None)})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({}))
    assert set(base_tensors(tmp_path)) == {"a.weight", "b.weight"}
