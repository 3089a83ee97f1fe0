"""An adapter at another strength, alpha scaled and weights shared, or under the base model's names; the original
untouched. That the model then answers accordingly is measured with torch: a LoRA's effect is alpha/r times B·A.
"""

import json
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.adapters.preflight import CONFIG, WEIGHTS, Checked, Invalid, check
from runtime.adapters.safetensors import Tensor
from runtime.adapters.served import prepare, scaled_config
from test.runtime.adapters.made import lora, write_adapter

INNER, OUTER = "model.layers.0.self_attn", "model.language_model.layers.0.self_attn"
VISION_BASE = {f"{OUTER}.{name}.weight": Tensor("BF16", (6, 8), 0, 96) for name in ("q_proj", "k_proj")}


def scale(source: Path, strength: float, target: Path) -> Path:
    return prepare(Checked(source, rank=4), strength, target)


def test_the_copy_has_scaled_alphas_and_the_same_weights(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "source", alpha_pattern={"o_proj": 4})
    target = scale(source, 0.5, tmp_path / "scaled")
    config = json.loads((target / CONFIG).read_text())
    assert (config["lora_alpha"], config["alpha_pattern"]) == (4.0, {"o_proj": 2.0})
    assert (target / WEIGHTS).resolve() == source / WEIGHTS
    assert json.loads((source / CONFIG).read_text())["lora_alpha"] == 8
    assert check(target, {}).rank == 4


def test_full_strength_is_the_adapter_itself(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "source")
    assert scale(source, 1.0, tmp_path / "scaled") == source
    assert not (tmp_path / "scaled").exists()


def test_a_second_time_replaces_the_first(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "source")
    scale(source, 0.5, tmp_path / "scaled")
    scale(source, 2.0, tmp_path / "scaled")
    assert json.loads((tmp_path / "scaled" / CONFIG).read_text())["lora_alpha"] == 16


def contents(path: Path) -> dict[str, bytes]:
    """As the library reads it that vLLM reads with."""
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes() for name in file.keys()}  # noqa: SIM118  # no mapping


def test_a_text_models_adapter_is_served_under_the_names_of_the_whole_model(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "source", lora(f"{INNER}.q_proj") | lora(f"{INNER}.k_proj", data=b"\x02" * 48))
    before = contents(source / WEIGHTS)
    target = prepare(check(source, VISION_BASE), 0.5, tmp_path / "served")
    assert contents(target / WEIGHTS) == {name.replace(INNER, OUTER): data for name, data in before.items()}
    assert json.loads((target / CONFIG).read_text())["lora_alpha"] == 4.0
    assert contents(source / WEIGHTS) == before
    assert check(target, VISION_BASE) == Checked(target, rank=4)


def test_ranks_and_alphas_of_single_modules_go_with_their_new_names(tmp_path: Path) -> None:
    patterns = {
        "alpha_pattern": {f"{INNER}.q_proj": 32, "q_proj": 16},
        "rank_pattern": {r"model\.layers\.0.*k_proj": 2},
    }
    tensors = lora(f"{INNER}.q_proj") | lora(f"{INNER}.k_proj", rank=2)
    target = prepare(check(write_adapter(tmp_path / "source", tensors, **patterns), VISION_BASE), 0.5, tmp_path / "to")
    config = json.loads((target / CONFIG).read_text())
    assert config["alpha_pattern"][f"{OUTER}.q_proj"] == next(iter(config["alpha_pattern"].values())) == 16.0
    assert config["rank_pattern"][f"{OUTER}.k_proj"] == 2
    assert f"{OUTER}.k_proj" not in config["alpha_pattern"]


def test_a_pattern_that_cannot_be_read_is_the_adapters_fault(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "source", lora(f"{INNER}.q_proj"), alpha_pattern={"(": 1})
    with pytest.raises(Invalid, match="no regular expression"):
        prepare(check(source, VISION_BASE), 1, tmp_path / "served")


def test_half_a_copy_is_the_adapters_fault_and_is_not_left_behind(tmp_path: Path) -> None:
    """A limit on the size of a file stands for a cache that is full: what is left there, the engine lacks."""
    source = write_adapter(tmp_path / "source", lora("old", high=4096))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, before[1]))
    try:
        with pytest.raises(Invalid, match=r"cannot be copied for the engine: .*File too large"):
            prepare(Checked(source, rank=4, names={"old": "new"}), 1, tmp_path / "served")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "served").exists()


@given(st.floats(0, 10), st.floats(0.1, 512))
def test_scaling_is_linear_and_touches_nothing_else(factor: float, alpha: float) -> None:
    scaled = scaled_config({"lora_alpha": alpha, "r": 8, "use_rslora": True}, factor)
    assert scaled == {"lora_alpha": alpha * factor, "alpha_pattern": {}, "r": 8, "use_rslora": True}


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_peft_reads_the_copy_as_the_adapter_at_that_strength(tmp_path: Path, strength: float) -> None:
    """PEFT's arithmetic is the one that vLLM follows; vLLM itself is compared in e2e."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    def linear() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(8, 6))

    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=False)
    get_peft_model(linear(), config).save_pretrained(str(tmp_path / "source"))
    rows = torch.arange(16.0).reshape(2, 8) / 16

    def answers(folder: Path) -> torch.Tensor:
        return PeftModel.from_pretrained(linear(), str(folder))(rows).detach()

    with torch.no_grad():
        base = linear()(rows)
    full = answers(tmp_path / "source") - base
    scaled = answers(scale(tmp_path / "source", strength, tmp_path / "scaled")) - base
    assert torch.allclose(scaled, strength * full, atol=1e-6)
