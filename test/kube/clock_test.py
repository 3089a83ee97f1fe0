"""Times as the API writes them, and that they survive the way there and back."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from kube.clock import SystemClock, micro_timestamp, parse_timestamp, timestamp

EAST = timezone(timedelta(hours=5, minutes=30))


def test_time_of_any_zone_is_written_in_utc_and_whole_seconds() -> None:
    assert timestamp(datetime(2030, 1, 1, 3, 0, 0, 999_999, tzinfo=EAST)) == "2029-12-31T21:30:00Z"
    assert micro_timestamp(datetime(2030, 1, 1, 3, 0, 0, 7, tzinfo=EAST)) == "2029-12-31T21:30:00.000007Z"


@given(
    moment=st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1)),  # noqa: DTZ001  # the zone is drawn beside it
    hours=st.integers(-12, 14),
)
def test_what_is_written_is_read_as_the_same_moment(moment: datetime, hours: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    assert parse_timestamp(micro_timestamp(aware)) == aware
    assert parse_timestamp(timestamp(aware)) == aware.replace(microsecond=0)
    assert parse_timestamp(timestamp(aware)).tzinfo is UTC


def test_machines_time_is_aware() -> None:
    assert SystemClock().now().utcoffset() == timedelta(0)
