"""Settings as flags and environment variables, generated from the fields of a dataclass."""

import socket
from dataclasses import dataclass

import pytest

from kube import options
from kube.options import ProcessSettings, number, option


@dataclass(frozen=True, kw_only=True)
class Settings(ProcessSettings):
    NAME = "brewer"
    SUMMARY = "Brews."

    beans: str = option("", "what is brewed", required=True)
    cups: int = option(2, "how many", parse=number(1, 12), env=("BREWER_CUPS", "CUPS"))
    recipe: str = option("", "nobody else's business", secret=True)


BEANS = {"BEANS": "arabica"}


def test_defaults_are_those_of_the_fields() -> None:
    settings = options.load(Settings, [], BEANS)
    assert (settings.beans, settings.cups, settings.leader_elect) == ("arabica", 2, True)
    durations = (
        settings.leader_elect_lease_duration,
        settings.leader_elect_renew_deadline,
        settings.leader_elect_retry_period,
    )
    assert durations == (15, 10, 2)
    assert (settings.lease_name, settings.identity) == ("brewer", socket.gethostname())


def test_a_flag_wins_over_the_environment_and_the_first_variable_over_the_next() -> None:
    environment = BEANS | {"CUPS": "3", "POD_NAME": "pod-1", "POD_NAMESPACE": "here", "LEADER_ELECT": "False"}
    settings = options.load(Settings, [], environment)
    assert (settings.cups, settings.identity, settings.lease_namespace) == (3, "pod-1", "here")
    assert not settings.leader_elect
    assert options.load(Settings, [], environment | {"BREWER_CUPS": "4"}).cups == 4
    assert options.load(Settings, ["--cups", "5"], environment | {"BREWER_CUPS": "4"}).cups == 5


def test_a_variable_that_is_empty_is_not_set() -> None:
    assert options.load(Settings, [], BEANS | {"CUPS": "", "LOG_LEVEL": ""}).cups == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cups", "0"], "--cups is '0': it must be a number from 1 to 12"),
        (["--cups", "two"], "--cups is 'two': it must be a number from 1 to 12"),
        (["--port", "http"], "must be a number from 0 to 65535"),
        (["--leader-elect", "perhaps"], "must be true or false"),
        (["--log-level", "loud"], "must be one of debug, info, warning, error"),
        (["--leader-elect-retry-period", "a while"], "must be a number of seconds"),
        (["--leader-elect-lease-duration", "10"], "must outlast its renew deadline"),
        (["--leader-elect-renew-deadline", "nan"], "must outlast its renew deadline"),
        (["--beans", ""], "--beans or BEANS must be given: what is brewed"),
    ],
)
def test_what_is_wrong_is_said_and_ends_the_start(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        options.load(Settings, arguments, BEANS)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_secret_is_neither_a_flag_nor_logged() -> None:
    settings = options.load(Settings, [], BEANS | {"RECIPE": "hush"})
    assert settings.recipe == "hush"
    assert "hush" not in str(settings.public())
    text = options.parser(Settings).format_help()
    assert "--recipe" not in text
    assert "RECIPE" in text


def test_the_help_shows_every_flag_with_its_default_and_its_variables() -> None:
    text = " ".join(options.parser(Settings).format_help().split())
    assert "--cups how many (default 2) [BREWER_CUPS, CUPS]" in text
    assert "(default true) [LEADER_ELECT]" in text
    assert "(default 10) [LEADER_ELECT_RENEW_DEADLINE]" in text
    assert {"BREWER_CUPS", "CUPS", "RECIPE", "POD_NAME"} <= options.known_variables(Settings)
