"""Settings: flags over environment over defaults, and a sentence for each value that cannot work."""

from pathlib import Path

import pytest

from controller.__main__ import main
from controller.settings import NodeClass, SettingsError, parse

IMAGE = ["--runtime-image", "registry.example/runtime:1"]


def test_the_defaults_are_those_of_production() -> None:
    settings = parse(IMAGE, {})
    assert settings.accelerator == "cuda"
    assert settings.leader_elect
    assert (settings.lease_duration, settings.renew_deadline, settings.retry_period) == (15, 10, 2)
    assert not settings.byo
    assert settings.node_class == NodeClass("kaito.sh", "KaitoNodeClass", "default")
    assert settings.node_class.kaito
    assert settings.allowed_address_ranges == ()


def test_a_flag_wins_over_the_environment() -> None:
    environment = {"ACCELERATOR": "cpu", "WORKERS": "3", "POD_NAME": "pod-1", "POD_NAMESPACE": "here"}
    settings = parse([*IMAGE, "--workers", "5"], environment)
    assert (settings.accelerator, settings.workers) == ("cpu", 5)
    assert (settings.pod_name, settings.pod_namespace) == ("pod-1", "here")


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
        (["--leader-elect", "maybe"], "true, false"),
        (["--ca-bundle", "/nowhere.pem"], "/nowhere.pem"),
        (["--leader-elect-lease-duration", "a while"], "number of seconds"),
        (["--leader-elect-lease-duration", "10"], "must outlast its renew deadline"),
        (["--leader-elect-renew-deadline", "nan"], "must outlast its renew deadline"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(arguments: list[str], named: str) -> None:
    with pytest.raises(SettingsError, match=arguments[0]) as caught:
        parse([*IMAGE, *arguments], {})
    assert named in str(caught.value)


def test_the_runtime_image_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--runtime-image" in capsys.readouterr().err


def test_a_bundle_is_read_whole_and_printed_by_size(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    settings = parse([*IMAGE, "--ca-bundle", str(file)], {})
    assert settings.ca_bundle == file.read_text()
    assert settings.printable()["ca_bundle"] == f"{len(settings.ca_bundle)} bytes"


def test_a_bundle_without_a_certificate_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    with pytest.raises(SettingsError, match="holds no PEM certificate"):
        parse([*IMAGE, "--ca-bundle", str(file)], {})
