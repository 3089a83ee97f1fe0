"""What the engine finds in its pod: templates, writable places, and the environment that its author set."""

import json
from pathlib import Path

import pytest

from runtime import http
from runtime.contract import ServePlan
from runtime.engine import pod
from runtime.engine.config import InferenceConfig
from runtime.engine.render import Surroundings, render
from runtime.fault import Fault


@pytest.mark.parametrize(
    ("name", "content", "has"),
    [
        ("chat_template.jinja", "{{ x }}", True),
        ("tokenizer_config.json", json.dumps({"chat_template": "{{ x }}"}), True),
        ("tokenizer_config.json", json.dumps({"chat_template": None}), False),
        ("tokenizer_config.json", "{", False),
        ("config.json", "{}", False),
    ],
)
def test_a_models_chat_template_is_found_where_models_keep_it(
    tmp_path: Path, name: str, content: str, has: bool
) -> None:
    (tmp_path / name).write_text(content)
    assert pod.has_template(tmp_path) == has


def test_the_adapters_template_is_found_in_a_folder_or_an_image_volume(tmp_path: Path) -> None:
    around = Surroundings(weights=tmp_path)
    assert pod.with_templates(around, tmp_path, "").adapter_template == ""
    assert pod.with_templates(around, tmp_path, "tuned").adapter_template == ""
    (tmp_path / "tuned" / "data").mkdir(parents=True)
    template = tmp_path / "tuned" / "data" / "chat_template.jinja"
    template.write_text("{{ x }}")
    assert pod.with_templates(around, tmp_path, "tuned").adapter_template == str(template)


def test_what_the_pods_author_set_wins_but_for_a_home_that_cannot_be_written_to(tmp_path: Path) -> None:
    around = Surroundings(cache=tmp_path)
    engine = render(ServePlan("m"), InferenceConfig(), [], around, "secret")
    inherited = {"HOME": "/nowhere", "HF_HOME": "/mine", "PYTHONPATH": "/extra"}
    environment = pod.environment(engine, inherited, tmp_path / "scratch")
    assert (environment["HOME"], environment["HF_HOME"]) == (str(tmp_path), "/mine")
    assert environment["PYTHONPATH"].split(":") == [str(pod.PACKAGE_ROOT), "/extra"]
    assert http.settings_from(environment) == engine.settings
    assert environment["TMPDIR"] == str(tmp_path / "scratch")
    own = pod.environment(engine, {"HOME": "/", "TMPDIR": "/tmp"}, tmp_path / "scratch")
    assert (own["HOME"], own["TMPDIR"]) == ("/", "/tmp")


def test_an_absent_cache_is_replaced_by_a_temporary_one(tmp_path: Path) -> None:
    assert pod.cache_root(tmp_path) == tmp_path
    assert pod.cache_root(tmp_path / "absent") != tmp_path / "absent"


def test_a_pods_number_that_is_none_is_a_bad_configuration() -> None:
    with pytest.raises(Fault, match="POD_INDEX must be a whole number"):
        pod.surroundings({"POD_INDEX": "first"})
    assert pod.surroundings({"POD_INDEX": "2", "HOSTNAME": "ws-1"}).pod_index == 2


@pytest.mark.parametrize(("hostname", "index"), [("ws-0", 0), ("phi-3-mini-11", 11), ("laptop", 0), ("", 0)])
def test_the_pods_index_is_in_its_name_where_nothing_else_tells(hostname: str, index: int) -> None:
    assert pod.surroundings({"HOSTNAME": hostname}).pod_index == index
