"""One data set from a folder: found, recognised, every row checked and counted, before a tokenizer is loaded."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from runtime.data import files as data_files
from runtime.data import shapes
from runtime.data.files import DataFile, invalid
from runtime.data.shapes import Columns, Example, Shape


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A checked data set. `rows` counts what was read, `empty` what teaches nothing and is left out."""

    files: tuple[DataFile, ...]
    shape: Shape
    rows: int
    empty: int
    fingerprint: str

    def examples(self) -> Iterator[Example]:
        """Read the examples again, in order."""
        for where, row in data_files.rows(self.files):
            example = shapes.convert(where, row, self.shape)
            if example is not None:
                yield example

    def describe(self) -> str:
        names = ", ".join(file.name for file in self.files[:3]) + (" …" if len(self.files) > 3 else "")
        return f"{self.rows} rows of {self.shape.name} in {names}; {self.empty} left out with nothing to learn"


def read(folder: Path, columns: Columns, extension: str = "") -> DataSet:
    """Find and check the data set in `folder`. Raises Fault naming file, row and remedy."""
    files = data_files.find(folder, extension)
    shape: Shape | None = None
    rows = empty = 0
    for where, row in data_files.rows(files):
        shape = shape or shapes.detect(where, row, columns)
        rows += 1
        empty += shapes.convert(where, row, shape) is None
    if shape is None:
        raise invalid(f"{', '.join(file.name for file in files)}: no rows")
    if empty == rows:
        raise invalid(f"none of the {rows} rows of {shape.name} has an answer to learn; check the assistant's turns")
    return DataSet(files, shape, rows, empty, data_files.fingerprint(files))
