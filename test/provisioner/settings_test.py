"""Flags, environment and what is refused at the start."""

import pytest

from provisioner.settings import OPTIONS, Settings, load, parser

CLUSTER = {"AZURE_SUBSCRIPTION_ID": "s", "ARM_RESOURCE_GROUP": "g", "AZURE_CLUSTER_NAME": "c"}


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
        (["--cluster-name", ""], "which cluster?"),
        (["--credential", "password"], "none of"),
        (["--credential", "client-secret"], "AZURE_CLIENT_SECRET"),
        (["--port", "http"], "is not a int"),
        (["--leader-elect", "perhaps"], "is not a bool"),
        (["--leader-elect-lease-duration", "10"], "must outlast its renew deadline"),
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
    assert "--client-secret" not in parser().format_help()


def test_every_setting_has_an_environment_variable_and_is_in_the_help() -> None:
    text = parser().format_help()
    assert all(option.env and option.env[0] in text for option in OPTIONS)
    assert {option.name for option in OPTIONS} == set(Settings.__dataclass_fields__) - {"user_agent"}
    assert len({option.flag for option in OPTIONS}) == len(OPTIONS)


def test_defaults_of_flags_and_of_the_type_agree() -> None:
    completed = {"subscription_id", "resource_group", "cluster_name", "credential", "arm_audience", "identity"}
    fields = Settings.__dataclass_fields__
    differing = [
        each.name for each in OPTIONS if each.name not in completed and fields[each.name].default != each.default
    ]
    assert differing == []
