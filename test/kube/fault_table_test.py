"""Every fault that a reflector must survive, by name: the letters that put it into scripts, and the tests that show it alone.

The rows are those of the project's list of faults between a client and an API server. A letter is a value or a strategy of
`test.kube.scripts`; a row without one has its reason beside it. What the leader does when its loop stalls is shown in
lease_test.py, and that requests beside watches behave is shown in client_test.py and auth_test.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from test.kube import fault_answers_test as answers
from test.kube import fault_credentials_test as credentials
from test.kube import fault_history_test as history
from test.kube import fault_rate_test as rate
from test.kube import fault_streams_test as streams
from test.kube import faults, outage_test, proxy_test, scripts
from test.kube.history import BUSY, CUT_SHORT, GONE, HTML, INTERNAL, TOO_LARGE
from test.kube.wire import Answer, Break, End, Stall

Test = Callable[..., Any]


@dataclass(frozen=True)
class Row:
    fault: str
    letters: tuple[object, ...]
    tests: tuple[Test, ...]


TABLE = (
    Row(
        "RST or FIN, between lines and in the middle of one",
        (Break(3, CUT_SHORT, End.RST), Break(3, CUT_SHORT, End.FIN), faults.Drop(End.RST), faults.Drop(End.FIN)),
        (
            streams.test_line_that_was_cut_short_comes_again_without_a_list,
            answers.test_list_that_breaks_off_is_asked_for_again,
            proxy_test.test_cache_converges_over_a_line_that_keeps_breaking,
        ),
    ),
    Row(
        "truncated JSON",
        (Break(3, CUT_SHORT, End.CLOSE), Break(3, CUT_SHORT + b"\n", End.CLOSE), Answer(200, CUT_SHORT + b"\n")),
        (
            streams.test_line_cut_short_by_a_clean_end_comes_again_without_a_list,
            streams.test_line_of_nonsense_reads_everything_again,
        ),
    ),
    Row(
        "half-open: no bytes",
        (Break(2, b"", End.SILENCE), faults.Pass(80.0)),
        (
            streams.test_silent_stream_is_given_up_after_73_seconds_and_not_before,
            streams.test_quiet_stream_with_bookmarks_is_kept,
            proxy_test.test_half_open_watch_is_replaced,
            outage_test.test_frozen_server_is_given_up_and_followed_again,
        ),
    ),
    Row(
        "stalled headers",
        (Stall(drip=False),),
        (
            answers.test_list_whose_headers_do_not_come_is_given_up,
            answers.test_watch_whose_headers_do_not_come_is_given_up,
        ),
    ),
    Row(
        "slow drip, of headers and of a line",
        (Stall(drip=True), Break(2, b"", End.DRIP)),
        (
            answers.test_watch_whose_headers_do_not_come_is_given_up,
            streams.test_dripping_line_is_given_up_after_30_seconds,
        ),
    ),
    Row("410 as the answer", (Answer(410),), (answers.test_gone_in_the_answer_reads_everything_again_within_one_step,)),
    Row(
        "410 as an ERROR event",
        (Break(2, GONE, End.CLOSE), faults.Say(GONE), faults.Compact(), faults.Miss((faults.Recreate("a"),))),
        (streams.test_error_in_the_stream_reads_everything_again_after_a_step,),
    ),
    Row(
        "410 on page 2",
        (faults.Compact(),),  # pages have two objects in a script
        (answers.test_gone_page_restarts_the_list_and_nobody_sees_half_of_it,),
    ),
    Row(
        "429 with Retry-After n, 10^9, missing, garbage, a date",
        tuple(Answer(429, headers=(f"Retry-After: {value}",)) for value in scripts.RETRY_AFTER),
        (
            answers.test_retry_after_is_honoured_up_to_a_minute,
            answers.test_retry_after_that_says_nothing_useful_leaves_the_backoff,
            answers.test_retry_after_of_a_status_is_honoured,
            streams.test_busy_in_the_stream_is_waited_for_and_resumed,
        ),
    ),
    Row(
        "500, 503, 504 with a Status, HTML, no body",
        tuple(Answer(code, body) for code in (500, 503, 504) for body in (None, HTML, b"")),
        (answers.test_server_error_of_any_shape_is_waited_out, rate.test_server_in_trouble_is_asked_rarely),
    ),
    Row(
        "Content-Length that lies",
        (Answer(200, b"{", announced=0), Answer(200, b"{", announced=9999), Answer(500, b"{", announced=9999)),
        (
            answers.test_length_that_lies_is_a_failure_like_any_other,
            answers.test_answer_that_is_no_list_is_not_taken_for_an_empty_one,
        ),
    ),
    Row(
        "ERROR 500 in the stream",
        (Break(1, INTERNAL, End.CLOSE), faults.Say(INTERNAL)),
        (streams.test_error_in_the_stream_reads_everything_again_after_a_step,),
    ),
    Row(
        "ERROR 429 in the stream",
        (Break(1, BUSY, End.CLOSE), faults.Say(BUSY)),
        (streams.test_busy_in_the_stream_is_waited_for_and_resumed,),
    ),
    Row("duplicate events", (faults.Repeat(1, 1),), (history.test_same_change_twice_is_told_once,)),
    Row("replay of older versions", (faults.Repeat(6, 3),), (history.test_replay_of_the_past_brings_nothing_back,)),
    Row(
        "MODIFIED for an unknown key",
        (faults.Put("a", "MODIFIED"),),
        (history.test_modification_of_an_unknown_object_adds_it,),
    ),
    Row("ADDED for a known key", (faults.Put("a", "ADDED"),), (history.test_addition_of_a_known_object_changes_it,)),
    Row(
        "DELETED for an unknown key",
        (faults.Delete("a"),),
        (history.test_deletion_of_an_unknown_object_is_told_to_nobody,),
    ),
    Row(
        "bookmark with a lower version",
        (faults.Bookmark(5),),
        (
            history.test_bookmark_that_goes_back_is_passed_over_and_counted,
            rate.test_bookmarks_that_keep_going_back_are_looked_into_once_a_minute,
        ),
    ),
    Row(
        "bookmarks out of order",
        (faults.Bookmark(1), faults.Bookmark(0)),
        (history.test_bookmarks_out_of_order_leave_the_newest,),
    ),
    Row(
        "bookmarks missing, or without a version",
        (faults.Skip(100),),
        (
            history.test_watch_without_any_bookmark_resumes_from_its_last_event,
            history.test_bookmark_without_a_version_changes_nothing,
        ),
    ),
    Row(
        "missing end bookmark",
        ("ignored",),  # one of the ways that a script's server treats WatchList
        (
            history.test_watch_list_without_an_end_is_listed_after_a_minute,
            history.test_silent_watch_list_is_listed_after_75_seconds,
        ),
    ),
    Row(
        "two servers of different freshness",
        (faults.Lag(True), faults.Lag(False)),
        (history.test_replica_that_is_behind_is_followed_without_going_back,),
    ),
    Row(
        "504 Too large resource version",
        (Break(1, TOO_LARGE, End.CLOSE), faults.Say(TOO_LARGE)),
        (answers.test_server_that_is_behind_our_version_is_read_from_anew,),
    ),
    Row(
        "etcd rollback, noisy",
        (faults.Restore(3, bump=True, calm=True),),
        (history.test_etcd_that_went_back_in_time_is_noticed_at_once,),
    ),
    Row(
        "etcd rollback, silent",
        (faults.Restore(3, bump=False, calm=True),),
        (
            history.test_etcd_that_went_back_in_time_is_noticed_at_once,
            history.test_etcd_that_went_back_behind_an_open_watch_is_noticed_when_it_ends,
            outage_test.test_etcd_restored_from_a_backup_is_noticed_and_everything_requeued,
        ),
    ),
    Row(
        "clock jumps",
        (faults.Pass(faults.LONG),),
        (history.test_clock_that_jumps_costs_no_more_than_a_reconnection,),
    ),
    Row(
        "loop stalls of 1 to 20 s",
        (faults.Pass(1.0), faults.Pass(20.0)),
        (
            history.test_loop_that_stalls_loses_nothing_that_arrived_meanwhile,
            history.test_loop_that_really_stalls_gives_up_no_stream,
        ),
    ),
    Row(
        "token rotation in the middle of a watch",
        (faults.RotateToken("two"),),
        (credentials.test_rotated_token_is_used_by_the_next_watch, answers.test_missed_token_is_read_again_once),
    ),
    Row("401 once", (Answer(401),), (answers.test_unauthorized_once_is_asked_again,)),
    Row(
        "403 for long",
        (Answer(403),),
        (
            answers.test_forbidden_is_asked_rarely_and_shown_until_it_is_allowed,
            rate.test_server_in_trouble_is_asked_rarely,
        ),
    ),
    Row(
        "watches refused, or ended at once, for long, where lists are not",
        (Answer(403), Answer(503), Break(0, b"", End.CLOSE), Break(0, b"", End.RST)),
        (
            answers.test_where_watches_are_refused_and_lists_are_not_reading_does,
            rate.test_server_with_trouble_in_watches_alone_is_asked_rarely,
        ),
    ),
    Row(
        "certificate rotation",
        (),  # scripts speak no TLS: a handshake costs more than the rest of one
        (
            credentials.test_renewed_client_certificate_is_shown_by_the_next_watch,
            credentials.test_new_authority_is_trusted_once_it_is_in_our_file,
            credentials.test_half_written_certificate_keeps_the_old_one,
        ),
    ),
    Row(
        "lines of 1.5 to 3.9 MiB",
        (),  # 0.2 MB in a script: many socket buffers, and still quick
        (streams.test_huge_line_is_read,),
    ),
    Row(
        "lines beyond every limit",
        (),
        (streams.test_line_beyond_every_limit_is_said_to_be_one, streams.test_line_without_an_end_is_not_hoarded),
    ),
    Row(
        "server not there, or killed and started again",
        (),  # a script's server is there; it drops connections
        (
            rate.test_server_that_is_not_there_is_tried_rarely,
            outage_test.test_server_that_is_down_is_tried_rarely,
            outage_test.test_killed_and_restarted_server_is_followed_again,
        ),
    ),
)


@pytest.mark.parametrize("row", TABLE, ids=[row.fault for row in TABLE])
def test_every_fault_has_tests_of_its_own_and_its_letters_are_drawn(row: Row) -> None:
    assert row.tests
    assert [letter for letter in row.letters if not scripts.drawn(letter)] == []


def test_every_letter_is_some_fault() -> None:
    ordinary = {faults.Recreate, faults.Expire, faults.Turns, faults.Next}
    assert {type(letter) for row in TABLE for letter in row.letters} >= set(scripts.LETTERS) - ordinary
