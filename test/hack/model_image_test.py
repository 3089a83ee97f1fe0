"""The model image tool up to the push, which e2e does: what it refuses, and where the files are in the image."""

import json
import tarfile
from pathlib import Path

import pytest

from hack import model_image


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\0" * 1000)
    return folder


def _files(target: Path) -> dict[str, int]:
    """Name → mode of every file in every layer of a layout."""
    blobs = target / "blobs" / "sha256"
    index = json.loads((target / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_text())
    found: dict[str, int] = {}
    for layer in manifest["layers"]:
        with tarfile.open(blobs / layer["digest"].removeprefix("sha256:")) as tar:
            found |= {entry.name: entry.mode for entry in tar if entry.isfile()}
    return found


def test_the_files_lie_where_model_images_have_them_and_anybody_may_read_them(weights: Path, tmp_path: Path) -> None:
    (weights / "model.safetensors").chmod(0o600)
    model_image.pack(weights, tmp_path / "layout")
    assert _files(tmp_path / "layout") == {
        "workspace/weights/config.json": 0o644,
        "workspace/weights/model.safetensors": 0o644,
    }


def test_the_same_folder_gives_the_same_digest(weights: Path, tmp_path: Path) -> None:
    first = model_image.pack(weights, tmp_path / "first")
    (weights / "config.json").touch()
    assert model_image.pack(weights, tmp_path / "second") == first


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_no_engine_could_load_is_refused(
    weights: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (weights / missing).unlink()
    assert model_image.main([str(weights), "127.0.0.1:1/model:1"]) == 1
    assert "has no" in capsys.readouterr().err


def test_a_registry_that_cannot_be_reached_is_an_error_and_leaves_nothing(weights: Path) -> None:
    assert model_image.main([str(weights), "127.0.0.1:1/model:1", "--plain-http"]) != 0
    assert list(weights.parent.iterdir()) == [weights]
