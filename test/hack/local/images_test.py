"""What decides whether an image is built again, and how two images become one. Building them is e2e's business."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from hack.local import images
from hack.local.oci import stacked_config
from hack.local.registry import Registry, hosts_toml, registry_config

DOCKERFILE = """# comment
ARG PYTHON_IMAGE=python
FROM ${PYTHON_IMAGE} AS one-deps
RUN first

FROM scratch AS one-code
COPY one/ /app/one/

FROM ${PYTHON_IMAGE} AS two-deps
RUN second
"""


def test_a_stage_is_its_own_lines_and_the_arguments_of_all() -> None:
    assert images.stage_text(DOCKERFILE, "one-deps") == (
        "ARG PYTHON_IMAGE=python\nFROM ${PYTHON_IMAGE} AS one-deps\nRUN first"
    )


def test_changing_one_stage_leaves_the_others_as_they_were() -> None:
    changed = DOCKERFILE.replace("RUN second", "RUN third")
    assert images.stage_text(changed, "one-deps") == images.stage_text(DOCKERFILE, "one-deps")
    assert images.stage_text(changed, "two-deps") != images.stage_text(DOCKERFILE, "two-deps")


def test_a_stage_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="no stage three"):
        images.stage_text(DOCKERFILE, "three")


@pytest.mark.parametrize("name", ["control", "runtime"])
def test_our_dockerfile_ends_in_the_deps_stage_with_the_code_stage_on_top(name: str) -> None:
    """`_join` makes in the registry what this last stage makes for users with docker; they must not part."""
    text = images.stage_text(images.DOCKERFILE.read_text(), name).splitlines()
    assert text[-2:] == [f"FROM {name}-deps AS {name}", f"COPY --from={name}-code / /"]


def test_a_changed_source_changes_the_code_layer_and_not_the_deps(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {image.repository: image.parts for image in images.product_images()}
    real = images._sources
    monkeypatch.setattr(images, "_sources", lambda folder: real(folder)[:-1])
    after = {image.repository: image.parts for image in images.product_images()}
    for repository, (deps, code) in after.items():
        assert deps.key == before[repository][0].key
        assert code.key != before[repository][1].key


def test_every_file_that_the_dockerfile_copies_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Path] = []
    real = images._contents

    def contents(paths: Iterable[Path]) -> list[str]:
        counted.extend(listed := list(paths))
        return real(listed)

    monkeypatch.setattr(images, "_contents", contents)
    images.product_images()
    names = {str(path.relative_to(images.REPOSITORY)) for path in counted if path.is_relative_to(images.REPOSITORY)}
    named = {"kube/meta.py", "runtime/contract.py", "runtime/engine/options.json", "runtime/training/options.json"}
    assert named <= names


def test_a_stages_sources_are_what_it_copies() -> None:
    text = "FROM scratch AS code\nCOPY hack/local/curl/ /app/curl/\nCOPY setup.cfg Makefile /app/"
    found = [str(path.relative_to(images.REPOSITORY)) for path in images.copied(text)]
    assert found == ["hack/local/curl/Dockerfile", "hack/local/curl/entrypoint.sh", "setup.cfg", "Makefile"]


def test_bytecode_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    for name in ("module.py", "table.csv", "__pycache__/module.cpython-311.pyc", "stray.pyc"):
        (tmp_path / name).write_text("")
    assert [path.name for path in images._sources(tmp_path)] == ["module.py", "table.csv"]


def test_a_stacked_image_runs_as_the_lower_one_says_with_the_layers_of_both() -> None:
    below = {"config": {"User": "1000"}, "rootfs": {"diff_ids": ["a", "b"]}, "history": [{"n": 1}], "created": "1"}
    above = {"config": {"User": "0"}, "rootfs": {"diff_ids": ["c"]}, "history": [{"n": 2}], "created": "2"}
    stacked = stacked_config(below, above)
    assert stacked == {
        "config": {"User": "1000"},
        "rootfs": {"diff_ids": ["a", "b", "c"]},
        "history": [{"n": 1}, {"n": 2}],
        "created": "2",
    }
    assert below["rootfs"] == {"diff_ids": ["a", "b"]}


def test_a_registry_is_open_unless_it_has_a_password_file() -> None:
    public = Registry("public", "198.18.0.1:5000", Path("/storage"))
    private = Registry("private", "198.18.0.1:5001", Path("/storage"), passwords=Path("/htpasswd"))
    assert "auth" not in registry_config(public)
    assert registry_config(private)["auth"] == {"htpasswd": {"realm": "aks-in-a-box", "path": "/htpasswd"}}


def test_docker_hubs_names_are_asked_of_the_box_and_never_of_the_internet() -> None:
    text = hosts_toml("198.18.0.1:5000", Path("/ca.crt"))
    assert 'server = "https://198.18.0.1:5000"' in text
    assert "docker.io" not in text
