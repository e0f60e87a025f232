"""Numbers that come in parts: in memory, beyond a size in files without a name.

A file is unlinked when it is made, so whatever ends the process frees its space. What
is in one is read through the page cache, which the kernel takes back when memory is
short.
"""

from __future__ import annotations

import tempfile
from typing import Any, BinaryIO, Generic, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.errors import TrainingError
from recsys.training.ragged import Ragged

# A column of fewer bytes stays in memory.
IN_MEMORY = 8 * 2**20

_Number = TypeVar("_Number", bound=np.generic)


class Column(Generic[_Number]):
    """One array that grows at its end.

    Args:
        kind: Type of its numbers.
    """

    def __init__(self, kind: type[_Number]) -> None:
        self._kind = kind
        self._parts: list[NDArray[_Number]] = []
        self._held = 0
        self._file: BinaryIO | None = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, values: NDArray[Any]) -> None:
        """Append numbers.

        Raises:
            TrainingError: The file cannot be made, or the disk is full.
        """
        part = np.ascontiguousarray(values, self._kind)
        self._parts.append(part)
        self._length += len(part)
        self._held += part.nbytes
        if self._held > IN_MEMORY:
            self._write()

    def array(self) -> NDArray[_Number]:
        """Return everything, and forget it; shape (n,)."""
        if self._file is None:
            parts, self._parts = self._parts, []
            if len(parts) == 1:
                return parts[0]
            return np.concatenate([np.empty(0, self._kind), *parts])
        self._write()
        # Private: nobody's change would reach the file.
        mapped = np.memmap(self._file, self._kind, "c", shape=(self._length,))
        self._file.close()  # the mapping keeps it
        return np.asarray(mapped)

    def _write(self) -> None:
        try:
            if self._file is None:
                made = tempfile.TemporaryFile(prefix="recsys-")  # noqa: SIM115 # kept
                self._file = cast(BinaryIO, made)
            for part in self._parts:
                self._file.write(part.tobytes())
            self._file.flush()
        except OSError as exc:
            if self._file is not None:
                self._file.close()
            raise TrainingError(
                f"the interactions cannot be kept in {_folder()}: {exc}",
                hint="Make room there, or name another folder in TMPDIR: it takes "
                "about 200 bytes per interaction.",
            ) from exc
        self._parts, self._held = [], 0


def _folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "any folder for temporary files"


class Lists:
    """Lists of different lengths that come in parts, all with the same columns."""

    def __init__(self) -> None:
        self._ends = Column(np.int64)
        self._columns: dict[str, Column[Any] | None] = {}
        self._total = 0

    def add(self, lists: Ragged, first: int = 0, last: int | None = None) -> None:
        """Append a run of lists, by default all of them."""
        ends = lists.start[first : (len(lists) if last is None else last) + 1]
        begin, end = int(ends[0]), int(ends[-1])
        self._ends.add((ends[1:] - begin + self._total).numpy())
        self._total += end - begin
        for name in ("values", "weight", "age", "kind"):
            found: torch.Tensor | None = getattr(lists, name)
            if found is None:
                self._columns[name] = None
                continue
            numbers = found[begin:end].numpy()
            column = self._columns.setdefault(name, Column(numbers.dtype.type))
            assert column is not None
            column.add(numbers)

    def ragged(self) -> Ragged:
        """Return all lists, and forget them."""
        starts = Column(np.int64)
        starts.add(np.zeros(1, np.int64))
        starts.add(self._ends.array())

        def whole(name: str) -> torch.Tensor | None:
            column = self._columns.pop(name, None)
            return None if column is None else torch.from_numpy(column.array())

        values = whole("values")
        assert values is not None
        return Ragged(
            start=torch.from_numpy(starts.array()),
            values=values,
            weight=whole("weight"),
            age=whole("age"),
            kind=whole("kind"),
        )
