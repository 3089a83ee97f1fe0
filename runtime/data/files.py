"""Finds the data files of a folder and reads them row by row. It knows formats, not what a row means.

All files of one format are read, in order of name; several formats at once are refused, since nothing says which is meant.
Rows come as dicts and are read again for every pass, so that a data set never has to fit into memory.
"""

import csv
import dataclasses
import gzip
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from runtime.contract import ExitCode, Reason
from runtime.fault import Fault

Row = dict[str, Any]

# Suffix → format. `.gz` and `.zst` may follow the text formats.
FORMATS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
COMPRESSIONS = (".gz", ".zst")
BATCH = 1000  # rows of a columnar file held at a time


def invalid(message: str) -> Fault:
    return Fault(ExitCode.DATA_INVALID, Reason.DATASET_INVALID, message)


@dataclasses.dataclass(frozen=True)
class DataFile:
    path: Path
    format: str
    compression: str = ""

    @property
    def name(self) -> str:
        return self.path.name


def find(folder: Path, extension: str = "") -> tuple[DataFile, ...]:
    """All data files below `folder`, all of one format. `extension` narrows them down, as KAITO's option of that name."""
    files = [file for path in _visible(folder) if (file := _recognise(path)) is not None]
    if extension:
        wanted = FORMATS.get("." + extension.lower().lstrip("."), extension)
        files = [file for file in files if file.format == wanted]
    if not files:
        seen = ", ".join(sorted(path.name for path in _visible(folder))[:5]) or "nothing"
        raise invalid(f"no data file found ({seen}); use one of {' '.join(FORMATS)}")
    formats = sorted({file.format for file in files})
    if len(formats) > 1:
        raise invalid(
            f"files of several formats ({', '.join(formats)}); keep one, or set DatasetConfig.dataset_extension"
        )
    return tuple(files)


def _visible(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(p for p in paths if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _recognise(path: Path) -> DataFile | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    found = FORMATS.get(suffixes[-1]) if suffixes else None
    return DataFile(path, found, compression) if found else None


def fingerprint(files: Sequence[DataFile]) -> str:
    """Sha256 over names and contents: what a checkpoint must agree on to be resumed."""
    total = hashlib.sha256()
    for file in files:
        with file.path.open("rb") as source:
            total.update(f"{file.name} {hashlib.file_digest(source, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def rows(files: Sequence[DataFile]) -> Iterator[tuple[str, Row]]:
    """Yield every row with where it stands ("train.jsonl row 7", counted from 1). Raises Fault for an unreadable file."""
    for file in files:
        for number, row in enumerate(_read(file), 1):
            yield f"{file.name} row {number}", row


def _read(file: DataFile) -> Iterator[Row]:
    match file.format:
        case "parquet" | "arrow":
            yield from _columnar(file)
        case "json":
            yield from _json(file)
        case _:
            yield from _csv(file)


def _columnar(file: DataFile) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        if file.format == "parquet":
            with pyarrow.parquet.ParquetFile(file.path) as table:
                for batch in table.iter_batches(batch_size=BATCH):
                    yield from batch.to_pylist()
            return
        with pyarrow.OSFile(str(file.path)) as source, pyarrow.ipc.open_stream(source) as stream:
            for batch in stream:
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise invalid(f"{file.name} is not a whole {file.format} file ({error}); make or download it again") from error


def _text(file: DataFile) -> IO[str]:
    if file.compression == ".gz":
        return gzip.open(file.path, "rt", encoding="utf-8-sig", newline="")
    if file.compression == ".zst":
        import pyarrow

        stream = pyarrow.CompressedInputStream(pyarrow.OSFile(str(file.path)), "zstd")
        return io.TextIOWrapper(cast("IO[bytes]", stream), encoding="utf-8-sig", newline="")
    return file.path.open(encoding="utf-8-sig", newline="")


def _json(file: DataFile) -> Iterator[Row]:
    """Read a JSON array, or one object per line: the first character tells, since a line of rows is an object."""
    with _text(file) as source:
        try:
            first = source.read(1)
            while first.isspace():
                first = source.read(1)
            if first == "[":
                yield from _array(file, "[" + source.read())
            elif first:
                yield from _lines(file, first + source.readline(), source)
        except (UnicodeDecodeError, OSError, EOFError) as error:
            raise invalid(f"{file.name} cannot be read as UTF-8 text ({error}); save it as UTF-8") from error


def _array(file: DataFile, text: str) -> Iterator[Row]:
    try:
        loaded = json.loads(text)
    except ValueError as error:
        raise invalid(f"{file.name} is not valid JSON: {error}") from error
    for number, row in enumerate(loaded, 1):
        yield _object(file, number, row)


def _lines(file: DataFile, first: str, rest: IO[str]) -> Iterator[Row]:
    number = 0
    for line in itertools.chain((first,), rest):
        if not line.strip():
            continue
        number += 1
        try:
            loaded = json.loads(line)
        except ValueError as error:
            raise invalid(f"{file.name} row {number} is not valid JSON: {error}; write one object per line") from error
        yield _object(file, number, loaded)


def _object(file: DataFile, number: int, row: Any) -> Row:
    if not isinstance(row, dict):
        raise invalid(f"{file.name} row {number} is a {type(row).__name__}; each row must be a JSON object")
    return row


def _csv(file: DataFile) -> Iterator[Row]:
    delimiter = "\t" if ".tsv" in file.path.suffixes else ","
    csv.field_size_limit(1 << 30)
    with _text(file) as source:
        try:
            for number, row in enumerate(csv.DictReader(source, delimiter=delimiter, strict=True), 1):
                if None in row or None in row.values():
                    raise invalid(f"{file.name} row {number} has not as many fields as the header; quote its text")
                yield dict(row)
        except (csv.Error, UnicodeDecodeError, EOFError, OSError) as error:
            raise invalid(f"{file.name} is not valid CSV in UTF-8: {error}") from error
