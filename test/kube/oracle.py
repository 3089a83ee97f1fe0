"""What must hold once the faults are over, whatever they were: F1 to F10 of a reflector, checked from outside.

F1, F7 and F8 are seen in the mirror, F2 and F3 in what its handler was told, F4 and F5 in the server's log of requests.
F6, F9 and F10 need a moment or a measure of their own: test_gone_*, test_nothing_is_told_after_the_end,
test_line_without_an_end_is_not_hoarded. Knows no fault.
"""

import itertools

from test.kube.mirror import Mirror
from test.kube.server import WatchServer
from test.kube.wire import Request

# client-go's numbers: backoff doubles from 0.8 s to 30 s and is stretched by up to twice.
FAILURES_PER_MINUTE = 8
FAILURES_PER_SECOND = 0.06
# What one failure may lead to: WatchList, its refusal, a probe, the watch; pages come on top.
REQUESTS_PER_FAILURE = 4


def check(mirror: Mirror, server: WatchServer, jumps: int) -> None:
    """All that can be seen at quiescence. `jumps` of the clock may each have ended a request as too slow."""
    assert mirror.versions() == server.history.versions()  # F1
    mirror.check_history()  # F2
    if not server.history.restores:
        check_told(mirror)
    assert not mirror.early  # F8
    check_positions(server)
    check_rate(server.requests, server.ended + jumps)


def check_told(mirror: Mirror) -> None:
    """F3: what was deleted is deleted once and for good; and nothing is told that was told before."""
    deleted = [event.object.metadata.uid for event in mirror.told if event.type == "DELETED"]
    assert len(deleted) == len(set(deleted)), "deleted twice"
    states = [
        (event.object.metadata.uid, event.object.metadata.resource_version)
        for event in mirror.told
        if event.type != "DELETED"
    ]
    assert len(states) == len(set(states)), "told twice, or deleted and yet there"


def check_positions(server: WatchServer) -> None:
    """F4: a watch continues from a version that was given out, and never goes back but after a restore."""
    asked = [int(request.version) for request in server.requests if request.watch and request.version]
    assert all(version <= server.history.newest for version in asked), asked
    steps_back = sum(after < before for before, after in itertools.pairwise(asked))
    assert steps_back <= server.history.restores, asked


def check_rate(requests: list[Request], ends: int) -> None:
    """F5: failures are as rare as backoff makes them, and but for `ends` nothing else is a reason to ask again."""
    failed = [request.moment for request in requests if request.failed]
    for begin in failed:
        minute = [moment for moment in failed if begin <= moment < begin + 60]
        assert len(minute) <= FAILURES_PER_MINUTE, minute
        later = [moment for moment in failed if begin + 60 <= moment < begin + 660]
        assert len(later) <= FAILURES_PER_SECOND * 600, later
    pages = sum("continue" in request.params for request in requests)
    assert len(requests) <= pages + REQUESTS_PER_FAILURE * (len(failed) + ends + 1), requests
