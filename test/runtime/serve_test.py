"""The server program as a process: status, adapters, drain, exit codes, reports. The engine is test/runtime/fake_engine.py,
which tells what it does not do; the real one is served by e2e.
"""

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.safetensors import read_header
from runtime.contract import Accelerator, Adapter, ExitCode, Phase, Reason, ServePlan, Status
from test.runtime.adapters.made import BASE, lora, write_adapter, write_safetensors
from test.runtime.serving import Serving, serving

PLAN = ServePlan(model="base", accelerator=Accelerator.CPU)
ADAPTERS = dataclasses.replace(PLAN, adapters=(Adapter("good"), Adapter("other", 0.5)), chat_adapter="good")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "chat_template.jinja").write_text("{{ messages }}")
    write_safetensors(weights / "model.safetensors", BASE)
    for pipe in ("gate", "start"):
        os.mkfifo(tmp_path / pipe)
    write_adapter(tmp_path / "adapters" / "good")
    write_adapter(tmp_path / "adapters" / "other")
    return tmp_path


@pytest.fixture
def ready(folder: Path) -> Iterator[Serving]:
    with serving(folder, ADAPTERS, gate=str(folder / "gate")) as started:
        started.wait_for(lambda status: status.phase == Phase.READY)
        yield started


def loading(status: Status) -> bool:
    return status.phase == Phase.LOADING


def test_a_ready_server_answers_for_the_model_and_each_adapter(ready: Serving) -> None:
    status = ready.status()
    assert (status.adapters, status.warnings, status.reason) == (("good", "other"), (), "")
    assert (ready.get("/readyz")[0], ready.get("/livez")[0]) == (200, 200)
    assert json.loads(ready.ask("/chat", {"prompt": "hi"})[1]) == {"Result": "good: hi"}
    body = {"model": "other", "messages": [{"role": "user", "content": "hi"}]}
    assert "other: hi" in ready.ask("/v1/chat/completions", body)[1]
    assert ready.ask("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/x"})[0] == 404


def test_a_server_that_loads_is_alive_and_not_ready(folder: Path) -> None:
    with serving(folder, PLAN, start=str(folder / "start")) as started:
        started.wait_for(loading)
        assert (started.get("/livez")[0], started.get("/readyz")[0]) == (200, 503)
        (folder / "start").write_bytes(b"")
        started.wait_for(lambda status: status.phase == Phase.READY)


def test_one_bad_adapter_is_named_and_the_rest_is_served(folder: Path) -> None:
    write_adapter(folder / "adapters" / "other", lora("model.layers.9.self_attn.q_proj"))
    with serving(folder, ADAPTERS) as started:
        status = started.wait_for(lambda status: status.adapters == ("good",))
        assert (status.phase, status.reason) == (Phase.LOADING_ADAPTERS, Reason.ADAPTER_INVALID)
        assert "adapter other: module model.layers.9.self_attn.q_proj does not exist" in status.message
        assert [warning.code for warning in status.warnings] == [Reason.ADAPTER_INVALID]
        assert started.get("/readyz")[0] == 503
        assert started.get("/livez")[0] == 200
        assert started.ask("/chat", {"prompt": "hi"}) == (200, '{"Result": "good: hi"}')


def test_an_adapter_that_the_engine_refuses_is_named_with_the_engines_words(folder: Path) -> None:
    with serving(folder, ADAPTERS, refuses=["good"]) as started:
        status = started.wait_for(lambda status: status.adapters == ("other",))
        assert status.message == "adapter good: no such thing as good"
        code, text = started.ask("/chat", {"prompt": "hi"})
        assert (code, "'good' is not loaded" in text) == (503, True)


def test_an_adapter_without_effect_is_named_and_keeps_the_server_from_being_ready(folder: Path) -> None:
    with serving(folder, ADAPTERS, idle=["other"]) as started:
        status = started.wait_for(lambda status: status.reason == Reason.ADAPTER_INVALID)
        assert "adapter other: it changes no answer" in status.message
        assert (status.phase, status.adapters) == (Phase.LOADING_ADAPTERS, ("good",))
        assert started.get("/readyz")[0] == 503


def test_an_adapter_that_may_change_the_answers_to_images_alone_is_served_with_a_warning(folder: Path) -> None:
    (folder / "inference_config.yaml").write_text("vllm: {enable-tower-connector-lora: true}")
    with serving(folder, ADAPTERS, idle=["other"]) as started:
        status = started.wait_for(lambda status: status.phase == Phase.READY)
        assert status.adapters == ("good", "other")
        assert [(warning.code, warning.message) for warning in status.warnings] == [
            ("AdapterDoubtful", "adapter other: it changes no answer to text, and nothing here asks it about images")
        ]


def test_an_adapter_at_strength_zero_may_answer_as_the_base_does(folder: Path) -> None:
    silent = dataclasses.replace(PLAN, adapters=(Adapter("other", 0),))
    with serving(folder, silent, idle=["other"]) as started:
        started.wait_for(lambda status: status.phase == Phase.READY)


def test_an_adapter_of_the_text_in_a_vision_model_reaches_the_engine_under_the_models_names(folder: Path) -> None:
    name = "model.language_model.layers.0.self_attn.q_proj"
    write_safetensors(folder / "weights" / "model.safetensors", {f"{name}.weight": ("BF16", (6, 8), None)})
    with serving(folder, ADAPTERS) as started:
        status = started.wait_for(lambda status: status.phase == Phase.READY)
        assert (status.adapters, status.warnings) == (("good", "other"), ())
        copies = list(folder.glob("**/serve-*/*/adapter_model.safetensors"))
        assert [set(read_header(copy)) for copy in copies] == [set(lora(name))] * 2


def test_sigterm_ends_the_requests_in_flight_before_the_server(ready: Serving) -> None:
    answers: list[tuple[int, str]] = []
    asking = threading.Thread(target=lambda: answers.append(ready.ask("/chat", {"prompt": "slow"})))
    asking.start()
    with (ready.folder / "gate").open("wb"):  # opens when the request is there to wait for its close
        ready.terminate()
        ready.wait_for(lambda status: status.phase == Phase.DRAINING)
        assert ready.get("/readyz")[0] == 503
        while ready.ask("/chat", {"prompt": "late"})[0] != 503:
            assert answers == []
    asking.join()
    assert answers == [(200, '{"Result": "good: slow"}')]
    assert ready.ended() == (0, Status(phase=Phase.SUCCEEDED, exit=0, adapters=("good", "other")))


def test_sigterm_ends_a_server_that_is_still_loading(folder: Path) -> None:
    with serving(folder, PLAN, start=str(folder / "start")) as started:
        started.wait_for(loading)
        started.terminate()
        assert started.ended()[0] == 0


def test_no_model_in_the_pod_is_told_before_the_engine_starts(folder: Path) -> None:
    (folder / "weights" / "config.json").unlink()
    with serving(folder, PLAN) as started:
        code, report = started.ended()
    assert (code, report.reason) == (ExitCode.INPUT_MISSING, Reason.WEIGHTS_UNREACHABLE)
    assert "it holds chat_template.jinja, model.safetensors" in report.message
    assert "fake engine" not in (folder / "log").read_text()


def test_why_the_engine_could_not_start_reaches_the_report(folder: Path) -> None:
    line = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB."
    with serving(
        folder, PLAN, says=["INFO", line, "RuntimeError: Engine core initialization failed."], exit=1
    ) as started:
        code, report = started.ended()
    assert (code, report.reason, report.message) == (ExitCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY, line)


def test_an_engine_that_dies_while_it_serves_ends_the_program(ready: Serving) -> None:
    [child] = Path(f"/proc/{ready.process.pid}/task/{ready.process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    code, report = ready.ended()
    assert (code, report.reason, report.phase) == (ExitCode.INTERNAL, Reason.ENGINE_FAILED, Phase.FAILED)
    assert report.message.startswith("the engine was killed by SIGKILL")


def test_a_users_typo_ends_the_program_with_the_nearest_name(folder: Path) -> None:
    (folder / "inference_config.yaml").write_text("vllm: {max-num-seq: 4}")
    with serving(folder, PLAN) as started:
        code, report = started.ended()
    assert (code, report.reason) == (ExitCode.CONFIG_INVALID, Reason.CONFIG_INVALID)
    assert "did you mean 'max-num-seqs'?" in report.message


@pytest.mark.parametrize("plan", ["", "[]", "{}"])
def test_a_broken_plan_is_a_bad_configuration(folder: Path, plan: str) -> None:
    with serving(folder, plan) as started:
        code, report = started.ended()
    assert (code, report.reason) == (ExitCode.CONFIG_INVALID, Reason.CONFIG_INVALID)


def test_a_plan_for_gpus_without_any_ends_with_a_code_of_its_own(folder: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        plan = dataclasses.replace(PLAN, accelerator=Accelerator.CUDA, tensor_parallel_size=1024)
    else:
        plan = dataclasses.replace(PLAN, accelerator=Accelerator.CUDA)
    with serving(folder, plan) as started:
        code, report = started.ended()
    assert (code, report.reason) == (ExitCode.ACCELERATOR_MISSING, Reason.ACCELERATOR_MISSING)
