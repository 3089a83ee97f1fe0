"""Settings: flags over environment over defaults, and a sentence for each value that cannot work."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from controller.settings import NodeClass, Settings
from kube import options

IMAGE = ["--runtime-image", "registry.example/runtime:1"]


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    return options.load(Settings, arguments, environment)


def test_the_defaults_are_those_of_production() -> None:
    settings = parse(IMAGE, {})
    assert settings.accelerator == "cuda"
    assert settings.leader_elect
    assert (settings.lease_name, settings.lease_namespace) == ("workspace-controller", "kaito-system")
    assert not settings.byo
    assert settings.node_class == NodeClass("kaito.sh", "KaitoNodeClass", "default")
    assert settings.node_class.kaito
    assert settings.allowed_address_ranges == ()


def test_a_flag_wins_over_the_environment() -> None:
    settings = parse([*IMAGE, "--workers", "5"], {"ACCELERATOR": "cpu", "WORKERS": "3"})
    assert (settings.accelerator, settings.workers) == ("cpu", 5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--accelerator", "tpu"], "cuda, cpu"),
        (["--node-provisioner", "karpenter"], "auto-provisioning, byo"),
        (["--node-class", "KaitoNodeClass"], "GROUP/KIND/NAME"),
        (["--allowed-address-ranges", "198.18.0.0/33"], "198.18.0.0/33"),
        (["--allowed-address-ranges", "198.18.0.1/15"], "host bits"),
        (["--hub-endpoint", "hub.example"], "http or https"),
        (["--workers", "0"], "from 1"),
        (["--ca-bundle", "/nowhere.pem"], "/nowhere.pem"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse([*IMAGE, *arguments], {})
    assert named in (printed := capsys.readouterr().err)
    assert arguments[0] in printed


def test_the_runtime_image_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([], {})
    assert "--runtime-image or RUNTIME_IMAGE must be given" in capsys.readouterr().err


def test_a_bundle_is_read_whole_and_printed_by_size(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    settings = parse([*IMAGE, "--ca-bundle", str(file)], {})
    assert settings.ca_bundle == file.read_text()
    assert settings.public()["ca_bundle"] == f"{len(settings.ca_bundle)} bytes"


def test_a_bundle_without_a_certificate_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    with pytest.raises(SystemExit):
        parse([*IMAGE, "--ca-bundle", str(file)], {})
    assert "holds no PEM certificate" in capsys.readouterr().err
