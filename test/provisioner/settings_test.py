"""Flags, environment and what is refused at the start."""

from collections.abc import Mapping, Sequence

import pytest

from kube import options
from provisioner.settings import Settings

CLUSTER = {"AZURE_SUBSCRIPTION_ID": "s", "ARM_RESOURCE_GROUP": "g", "AZURE_CLUSTER_NAME": "c"}


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    return options.load(Settings, arguments, environment)


def test_gpu_provisioners_environment_is_understood() -> None:
    found = load(
        [],
        {
            "ARM_SUBSCRIPTION_ID": "s",
            "ARM_RESOURCE_GROUP": "g",
            "AZURE_CLUSTER_NAME": "c",
            "LOCATION": "eastus",
            "AZURE_TENANT_ID": "t",
            "AZURE_CLIENT_ID": "id",
            "AZURE_FEDERATED_TOKEN_FILE": "/token",
            "AZURE_AUTHORITY_HOST": "https://login.microsoftonline.com/",
            "LEADER_ELECT": "false",
            "LOG_LEVEL": "debug",
        },
    )
    assert (found.subscription_id, found.location, found.credential) == ("s", "eastus", "workload-identity")
    assert not found.leader_elect


def test_a_flag_wins_over_the_environment() -> None:
    assert load(["--cluster-name", "other"], CLUSTER).cluster_name == "other"


@pytest.mark.parametrize(
    ("environment", "credential"),
    [
        ({}, "managed-identity"),
        ({"AZURE_CLIENT_SECRET": "x", "AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "i"}, "client-secret"),
        ({"AZURE_FEDERATED_TOKEN_FILE": "/t", "AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "i"}, "workload-identity"),
    ],
)
def test_the_best_credential_that_is_there_is_used(environment: dict[str, str], credential: str) -> None:
    assert load([], {**CLUSTER, **environment}).credential == credential


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster-name", ""], "--cluster-name or AZURE_CLUSTER_NAME must be given"),
        (["--credential", "password"], "must be one of workload-identity"),
        (["--credential", "client-secret"], "AZURE_CLIENT_SECRET"),
        (["--arm-endpoint", "http://arm"], "must be https"),
    ],
)
def test_what_is_wrong_is_said_and_ends_the_start(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {
        key: value for key, value in CLUSTER.items() if arguments[0] != "--cluster-name" or "CLUSTER" not in key
    }
    with pytest.raises(SystemExit):
        load(arguments, environment)
    assert message in capsys.readouterr().err


def test_an_emulator_may_be_reached_without_tls() -> None:
    found = load(["--credential", "none", "--arm-endpoint", "http://127.0.0.1:1"], CLUSTER)
    assert found.arm_endpoint == "http://127.0.0.1:1"


def test_the_secret_is_neither_a_flag_nor_logged() -> None:
    environment = {**CLUSTER, "AZURE_CLIENT_SECRET": "hush", "AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "i"}
    found = load([], environment)
    assert found.client_secret == "hush"
    assert "hush" not in str(found.public())
    assert "--client-secret" not in options.parser(Settings).format_help()
