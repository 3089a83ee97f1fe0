"""A program's settings, from one table: each field of a frozen dataclass is a flag and an environment variable.

Flags win over the environment, the environment over defaults; a variable that is set to nothing counts as not set. A wrong
value ends the program at its start with a sentence that says what is allowed, since a Deployment that crashes at once is
noticed and one that half works is not. Secrets come from the environment alone: everybody who lists processes sees flags.
"""

import argparse
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, ClassVar, Self, TypeVar

from kube.lease import check_durations

T = TypeVar("T")
S = TypeVar("S", bound="ProcessSettings")

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class _Option:
    text: str
    parse: Callable[[str], Any]
    env: tuple[str, ...]  # in the order in which they are looked up; none: the name in capitals
    required: bool
    secret: bool


def option(
    default: T,
    text: str,
    *,
    parse: Callable[[str], T] | None = None,
    env: Sequence[str] = (),
    required: bool = False,
    secret: bool = False,
) -> T:
    """A field that can be set. `text` is for `--help`; `parse` raises ValueError that says what is allowed."""
    made = _Option(text, parse or _PARSERS[type(default)], tuple(env), required, secret)
    return field(default=default, metadata={"option": made})


def one_of(*allowed: str) -> Callable[[str], str]:
    """Parse one of a few words."""

    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text.lower()

    return parse


def number(least: int, most: int) -> Callable[[str], int]:
    """Parse a whole number within bounds."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ValueError(f"must be a number from {least} to {most}")
        return int(text)

    return parse


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError("must be true or false")
    return text.lower() in _TRUE


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number of seconds") from None


_PARSERS: Mapping[type, Callable[[str], Any]] = {str: str, bool: _boolean, float: _seconds}


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """What every controller's process can be told. `NAME` is the program's: in `--help`, its Lease and its requests."""

    NAME: ClassVar[str]
    SUMMARY: ClassVar[str]

    kubeconfig: str = option("", "how to reach Kubernetes; empty: in-cluster, else ~/.kube/config")
    leader_elect: bool = option(True, "act only while holding the Lease; needed for more than one replica")
    leader_elect_lease_duration: float = option(
        15.0, "seconds without a renewal after which another replica takes over"
    )
    leader_elect_renew_deadline: float = option(10.0, "seconds without a renewal after which the leader ends")
    leader_elect_retry_period: float = option(2.0, "seconds between two attempts to renew or to acquire the Lease")
    lease_namespace: str = option(
        "kaito-system", "where the Lease is", env=("LEADER_ELECTION_NAMESPACE", "POD_NAMESPACE")
    )
    lease_name: str = option("", "name of the Lease; empty: this program's", env=("LEADER_ELECTION_NAME",))
    identity: str = option(
        "", "name of this replica in the Lease and in events; empty: the host's name", env=("POD_NAME",)
    )
    address: str = option("", "address to serve metrics and probes on; empty: all")
    port: int = option(
        8080, "port of /metrics, /healthz and /readyz", parse=number(0, 65535), env=("METRICS_PORT", "PORT")
    )
    log_level: str = option("info", f"least severe level that is logged: {', '.join(_LEVELS)}", parse=one_of(*_LEVELS))

    def completed(self) -> Self:
        """Check what concerns several settings and fill in what follows from others. Raises ValueError."""
        check_durations(
            self.leader_elect_lease_duration, self.leader_elect_renew_deadline, self.leader_elect_retry_period
        )
        return replace(self, lease_name=self.lease_name or self.NAME, identity=self.identity or socket.gethostname())

    def public(self) -> dict[str, Any]:
        """What may be logged."""
        return {each.name: getattr(self, each.name) for each, known in _options(type(self)) if not known.secret}


def parser(kind: type[ProcessSettings]) -> argparse.ArgumentParser:
    """Build the parser. Its help is the reference of the settings."""
    made = argparse.ArgumentParser(
        prog=kind.NAME,
        description=kind.SUMMARY,
        epilog="Environment variables are in brackets; a flag wins over them.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=120),
    )
    for each, known in _options(kind):
        if not known.secret:
            text = f"{known.text}{_default(each)} [{', '.join(variables(each))}]"
            made.add_argument(_flag(each), metavar="", help=text)
    if secrets := [variables(each)[0] for each, known in _options(kind) if known.secret]:
        made.add_argument_group("only from the environment", ", ".join(secrets))
    return made


def load(kind: type[S], arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> S:
    """Read, check and complete the settings. Exits with a message and 2 (argparse's way) on anything wrong."""
    made = parser(kind)
    given = vars(made.parse_args(arguments))
    try:
        values = {each.name: _value(each, known, given.get(each.name), environment) for each, known in _options(kind)}
        return kind(**values).completed()
    except ValueError as error:
        made.error(str(error))


def known_variables(kind: type[ProcessSettings]) -> set[str]:
    """Every environment variable that is looked at."""
    return {variable for each, _ in _options(kind) for variable in variables(each)}


def variables(each: "Field[Any]") -> tuple[str, ...]:
    known: _Option = each.metadata["option"]
    return known.env or (each.name.upper(),)


def _options(kind: type[ProcessSettings]) -> list[tuple["Field[Any]", _Option]]:
    return [(each, each.metadata["option"]) for each in fields(kind)]


def _flag(each: "Field[Any]") -> str:
    return f"--{each.name.replace('_', '-')}"


def _default(each: "Field[Any]") -> str:
    value = each.default
    if value in ("", ()):
        return ""
    shown = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
    return f" (default {shown})"


def _value(each: "Field[Any]", known: _Option, flag: str | None, environment: Mapping[str, str]) -> Any:
    text = (
        flag
        if flag is not None
        else next((environment[name] for name in variables(each) if environment.get(name)), None)
    )
    if known.required and not text:
        raise ValueError(f"{_flag(each)} or {variables(each)[0]} must be given: {known.text}")
    if text is None:
        return each.default
    try:
        return known.parse(text)
    except ValueError as error:
        raise ValueError(f"{_flag(each)} is {text!r}: it {error}") from error
