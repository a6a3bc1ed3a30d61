"""Facts of rows by column, their text left out: what is decided about a million rows without holding one of them.

    table = RowTable.joined([table_of(chunk, key=key) for chunk in chunks])
    train = table.take(train_index)

Text appears only as keyed hashes: codes compare rows inside one table, or between tables made with one key.
"""

# Shapes: N rows.

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from metier.core.errors import StoreError
from metier.core.hashing import keyed_hash
from metier.core.rows import Row
from metier.core.similarity import Shingles, conversation_text, prompt_key, shingles_of, text_codes

__all__ = ["NO_TIME", "RowTable", "Values", "micros_of", "table_of"]

NO_TIME = np.iinfo(np.int64).min
"""Stands in `time_N` for a row without a time."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.bytes_]


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """A column of text that repeats: the different values, and for each row the place of its own."""

    names: tuple[str, ...]
    code_N: npt.NDArray[np.int32]
    """Place in `names`; -1 for a row without a value."""

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> Values:
        """The column of these texts; None is no value."""
        place: dict[str, int] = {}
        codes = [-1 if text is None else place.setdefault(text, len(place)) for text in texts]
        return cls(tuple(place), np.asarray(codes, dtype=np.int32))

    def take(self, index: Ints) -> Values:
        """The values of these rows; `names` stays whole, so that codes stay comparable."""
        return Values(self.names, self.code_N[index])

    def at(self, row: int) -> str | None:
        """The value of one row."""
        code = int(self.code_N[row])
        return None if code < 0 else self.names[code]

    @staticmethod
    def joined(parts: Sequence[Values]) -> Values:
        """One column of several."""
        place: dict[str, int] = {}
        codes = [np.zeros(0, dtype=np.int32)]
        for part in parts:
            mine = np.asarray([place.setdefault(name, len(place)) for name in part.names] or [0], dtype=np.int32)
            codes.append(np.where(part.code_N < 0, np.int32(-1), mine[part.code_N]))
        return Values(tuple(place), np.concatenate(codes))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowTable:
    """N rows by column; every array has one entry a row."""

    origin_N: Ids
    """`origin_id`, 32 hex digits as bytes."""
    row_N: Ids
    """`row_id`, 32 hex digits as bytes."""
    source: Values
    number_N: Ints
    """Record number in its source."""
    groups: Mapping[str, Values]
    """By key; names are keyed hashes of the values."""
    time_N: Ints
    """`collected_at` in microseconds since 1970, UTC; `NO_TIME` where it is not known."""
    kind: Values
    """Kind of the target."""
    label: Values
    attributes: Mapping[str, Values]
    policy: Values
    """Version of the policy a reply follows."""
    prompt_words_N: Ints
    """Words of the prompt, split at white space."""
    reply_words_N: Ints
    """Words of the right answer."""
    prompt_N: Codes
    """Hash of the folded prompt: equal codes ask the same thing in the same words."""
    conversation: Shingles
    """Shingles of `conversation_text`."""

    def __len__(self) -> int:
        return len(self.origin_N)

    def origin(self, row: int) -> str:
        """`origin_id` of one row."""
        return str(self.origin_N[row], "ascii")

    def row_id(self, row: int) -> str:
        """`row_id` of one row."""
        return str(self.row_N[row], "ascii")

    def where(self, row: int) -> str:
        """How messages name a row: file:record."""
        return f"{self.source.at(row)}:{int(self.number_N[row])}"

    def time(self, row: int) -> datetime | None:
        """When a row was collected."""
        micros = int(self.time_N[row])
        return (
            None
            if micros == NO_TIME
            else datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000)
        )

    def take(self, index: Ints) -> RowTable:
        """These rows, in their order."""
        return RowTable(
            origin_N=self.origin_N[index],
            row_N=self.row_N[index],
            source=self.source.take(index),
            number_N=self.number_N[index],
            groups={key: values.take(index) for key, values in self.groups.items()},
            time_N=self.time_N[index],
            kind=self.kind.take(index),
            label=self.label.take(index),
            attributes={key: values.take(index) for key, values in self.attributes.items()},
            policy=self.policy.take(index),
            prompt_words_N=self.prompt_words_N[index],
            reply_words_N=self.reply_words_N[index],
            prompt_N=self.prompt_N[index],
            conversation=self.conversation.take(index),
        )

    @staticmethod
    def joined(parts: Sequence[RowTable]) -> RowTable:
        """All rows of several tables; at least one table is needed."""
        first = parts[0]

        def mapping(name: str) -> dict[str, Values]:
            found = [getattr(part, name) for part in parts]  # getattr: one of two fields by name
            keys = dict.fromkeys(key for values in found for key in values)
            return {
                key: Values.joined([
                    values.get(key) or Values((), np.full(len(part), -1, dtype=np.int32))
                    for values, part in zip(found, parts, strict=True)
                ])
                for key in keys
            }  # fmt: skip

        if len(parts) == 1:
            return first
        return RowTable(
            origin_N=np.concatenate([part.origin_N for part in parts]),
            row_N=np.concatenate([part.row_N for part in parts]),
            source=Values.joined([part.source for part in parts]),
            number_N=np.concatenate([part.number_N for part in parts]),
            groups=mapping("groups"),
            time_N=np.concatenate([part.time_N for part in parts]),
            kind=Values.joined([part.kind for part in parts]),
            label=Values.joined([part.label for part in parts]),
            attributes=mapping("attributes"),
            policy=Values.joined([part.policy for part in parts]),
            prompt_words_N=np.concatenate([part.prompt_words_N for part in parts]),
            reply_words_N=np.concatenate([part.reply_words_N for part in parts]),
            prompt_N=np.concatenate([part.prompt_N for part in parts]),
            conversation=Shingles.joined([part.conversation for part in parts]),
        )

    def to_bytes(self) -> bytes:
        """The table as bytes of an npz file, without pickles."""
        columns = {"source": self.source, "kind": self.kind, "label": self.label, "policy": self.policy}
        columns |= {f"group {key}": values for key, values in self.groups.items()}
        columns |= {f"attribute {key}": values for key, values in self.attributes.items()}
        names = json.dumps([[name, list(values.names)] for name, values in columns.items()])
        buffer = io.BytesIO()
        np.savez(
            buffer,
            origin=self.origin_N, row=self.row_N, number=self.number_N, time=self.time_N, prompt=self.prompt_N,
            prompt_words=self.prompt_words_N, reply_words=self.reply_words_N,
            start=self.conversation.start_N, code=self.conversation.code_S,
            names=np.frombuffer(names.encode(), dtype=np.uint8),
            codes=np.stack([values.code_N for values in columns.values()]),
        )  # fmt: skip
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: object) -> RowTable:
        """The table written by `to_bytes`.

        Raises:
            StoreError: the bytes are damaged.
        """
        try:
            found = np.load(io.BytesIO(data), allow_pickle=False)
            names: list[list[Any]] = json.loads(found["names"].tobytes())  # Any: a name, then a list of names
            columns = {
                name: Values(tuple(values), code_N)
                for (name, values), code_N in zip(names, found["codes"], strict=True)
            }
            return cls(
                origin_N=found["origin"], row_N=found["row"], number_N=found["number"], time_N=found["time"],
                prompt_N=found["prompt"], conversation=Shingles(found["start"], found["code"]),
                source=columns["source"], kind=columns["kind"], label=columns["label"], policy=columns["policy"],
                prompt_words_N=found["prompt_words"], reply_words_N=found["reply_words"],
                groups={n.removeprefix("group "): v for n, v in columns.items() if n.startswith("group ")},
                attributes={n.removeprefix("attribute "): v for n, v in columns.items() if n.startswith("attribute ")},
            )  # fmt: skip
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as err:
            raise StoreError(
                f"{where}: the table of rows is damaged ({err}). Delete the folder and run again."
            ) from err


def table_of(rows: Sequence[Row], *, key: bytes) -> RowTable:
    """The table of these rows; `key` is the project key, which the hashes of text and groups depend on."""
    group_keys = dict.fromkeys(key for row in rows for key in row.meta.groups)
    attribute_keys = dict.fromkeys(key for row in rows for key in row.meta.attributes)
    hashed: dict[str, str] = {}

    def group(value: str | None) -> str | None:
        if value is None:
            return None
        if value not in hashed:
            hashed[value] = keyed_hash(key, value)
        return hashed[value]

    return RowTable(
        origin_N=np.asarray([row.origin_id.encode() for row in rows], dtype="S32"),
        row_N=np.asarray([row.row_id.encode() for row in rows], dtype="S32"),
        source=Values.of(row.meta.source for row in rows),
        number_N=np.asarray([row.meta.source_row for row in rows], dtype=np.int64),
        groups={name: Values.of(group(row.meta.groups.get(name)) for row in rows) for name in group_keys},
        time_N=np.asarray([micros_of(row.meta.collected_at) for row in rows], dtype=np.int64),
        kind=Values.of(row.target.kind.value for row in rows),
        label=Values.of(row.target.label for row in rows),
        attributes={name: Values.of(row.meta.attributes.get(name) for row in rows) for name in attribute_keys},
        policy=Values.of(row.meta.policy_version for row in rows),
        prompt_words_N=np.asarray([len(row.prompt_text.split()) for row in rows], dtype=np.int64),
        reply_words_N=np.asarray([len(row.gold.split()) for row in rows], dtype=np.int64),
        prompt_N=text_codes((prompt_key(row) for row in rows), key=key),
        conversation=shingles_of([conversation_text(row) for row in rows], key=key),
    )


def micros_of(time: datetime | None) -> int:
    """Microseconds since 1970, UTC; `NO_TIME` for no time."""
    if time is None:
        return int(NO_TIME)
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
