"""How peaks are kept and folders measured. What the machine had in use is the machine's business."""

from pathlib import Path

from hack.local import figures
from hack.local.meter import MIB, Peak, folder_mib


def test_a_peak_remembers_the_step_in_which_it_was_reached() -> None:
    peak = Peak()
    for mib, step in ((10.0, "build"), (30.0, "serve"), (30.0, "delete"), (20.0, "down")):
        peak = peak.or_now(mib, step)
    assert peak == Peak(30.0, "serve")


def test_what_earlier_runs_left_counts_as_disk_of_this_one() -> None:
    assert figures.memory(Peak(1024, "serve")).ok
    disk = figures.disk(Peak(2048, "build"), cached_mib=34 * 1024)
    assert (disk.value, disk.ok) == (36, False)
    assert str(disk).endswith("MISSED  (in: build)")


def test_a_folder_is_as_large_as_its_files_and_one_that_is_not_there_is_empty(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "blob").write_bytes(b"x" * 2 * MIB)
    assert 2 <= folder_mib(tmp_path) < 3
    assert folder_mib(tmp_path / "nothing") == 0
