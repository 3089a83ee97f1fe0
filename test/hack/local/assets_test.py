"""How builds are named and found. The build itself takes minutes and is what `make test` begins with."""

from pathlib import Path

import pytest

from hack.local import assets


@pytest.fixture
def module(tmp_path: Path) -> Path:
    for name in ("main.go", "go.mod", "go.sum"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_the_key_is_the_same_for_the_same_source(module: Path) -> None:
    assert assets.source_key(module, ".") == assets.source_key(module, ".")


@pytest.mark.parametrize("name", ["main.go", "go.mod", "go.sum", "another.go"])
def test_the_key_changes_with_each_file_that_goes_into_the_build(module: Path, name: str) -> None:
    before = assets.source_key(module, ".")
    (module / name).write_text("changed")
    assert assets.source_key(module, ".") != before


def test_the_key_tells_programs_of_one_module_apart(module: Path) -> None:
    assert assets.source_key(module, ".") != assets.source_key(module, "k8s.io/kubernetes/cmd/kubectl")


def test_moving_text_from_one_file_to_the_next_changes_the_key(module: Path) -> None:
    (module / "a.go").write_text("xy")
    (module / "b.go").write_text("")
    before = assets.source_key(module, ".")
    (module / "a.go").write_text("x")
    (module / "b.go").write_text("y")
    assert assets.source_key(module, ".") != before


def test_what_is_built_lies_under_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert assets.cache() == tmp_path / "aks-in-a-box"
    assert assets.cache().is_dir()


def test_kubebuilder_assets_stand_in_for_our_own_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", "/opt/envtest")
    commands = assets.control_plane_commands()
    assert commands.etcd == ("/opt/envtest/etcd",)
    assert commands.apiserver == ("/opt/envtest/kube-apiserver",)


def test_the_module_is_the_kubernetes_that_its_version_flag_claims() -> None:
    assert f"k8s.io/kubernetes {assets.KUBERNETES_VERSION}" in (assets.MODULE / "go.mod").read_text()
