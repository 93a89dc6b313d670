"""Which record made each value, and who last wrote or read its memory: the order that keeps."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

from .records import OpRecord, Value, values
from .schema import Use


@dataclass(slots=True)
class Memory:
    """Follows which record made each value, and who last wrote or read its memory.

    Where nothing is written in place (`orders` is False) nobody has to wait for a reader.
    """

    orders: bool = True
    made_at: dict[str, int] = field(default_factory=dict)
    storage: dict[Value, Hashable] = field(default_factory=dict)
    now: dict[Value, Value] = field(default_factory=dict)
    names: dict[Value, list[Value]] = field(default_factory=dict)
    writer: dict[Hashable, str] = field(default_factory=dict)
    readers: dict[Hashable, list[str]] = field(default_factory=dict)
    number: dict[Hashable, int] = field(default_factory=dict)

    def keys(self, record: OpRecord) -> dict[str, tuple[int, ...]]:
        """Return the node keys that number the memory behind outputs, and what goes after it."""
        keys: dict[str, tuple[int, ...]] = {}
        if record.outputs:
            storages = [self.storage[Value(record.key, i)] for i in range(len(record.outputs))]
            keys["storages"] = tuple([self._number(storage) for storage in storages])
        freed = tuple([self.number[s] for s in record.frees if s in self.number])
        return {**keys, "frees": freed} if freed else keys

    def _number(self, storage: Hashable) -> int:
        return self.number.setdefault(storage, len(self.number))

    def step(self, index: int, record: OpRecord) -> dict[str, list[Use]]:
        """Return, by the key of an earlier record, the uses that `record` makes of it."""
        uses: dict[str, list[Use]] = {}
        reads: list[tuple[str, Value]] = []
        for name, arg in record.args.items():
            if type(arg) is Value:
                reads.append((name, arg))
            elif isinstance(arg, tuple | Mapping):
                reads += values(arg, name)
        for path, value in reads:
            current = self.now.get(value, value)
            uses.setdefault(current.key, []).append(Use(current.output, path))
        written = self._written(record, reads) if record.writes else {}
        if written or self.writer:
            for before in self._order(record, reads, written):
                if before != record.key and before not in uses:
                    uses[before] = [Use(None, "after")]
        self._remember(index, record, reads, written)
        return uses

    def _written(self, record: OpRecord, reads: list[tuple[str, Value]]) -> dict[Hashable, Value]:
        return {
            self.storage[value]: value
            for path, value in reads
            if path in record.writes or path.partition(".")[0] in record.writes
        }

    def _order(
        self, record: OpRecord, reads: list[tuple[str, Value]], written: Mapping[Hashable, Value]
    ) -> Iterator[str]:
        for _, value in reads:
            writer = self.writer.get(self.storage[value])
            made = self.now.get(value, value).key
            if writer is not None and self.made_at[writer] > self.made_at[made]:
                yield writer
        for storage in written:
            yield from self.readers.get(storage, ())

    def _remember(
        self,
        index: int,
        record: OpRecord,
        reads: list[tuple[str, Value]],
        written: Mapping[Hashable, Value],
    ) -> None:
        own = record.storages or (None,) * len(record.outputs)
        for i, storage in enumerate(own):
            value = Value(record.key, i)
            self.storage[value] = value if storage is None else storage
        if not self.orders:
            return
        self.made_at[record.key] = index
        produced = {s for s in own if s is not None}
        for _, value in reads:
            storage = self.storage[value]
            if storage not in produced and storage not in written:
                self.readers.setdefault(storage, []).append(record.key)
        for storage, value in written.items():
            self.writer[storage], self.readers[storage] = record.key, []
            same = [i for i, s in enumerate(own) if s == storage]
            if same:
                self._replace(value, Value(record.key, same[0]))

    def _replace(self, old: Value, new: Value) -> None:
        # Reading `x` after `x.add_(1)` reads what add_ returned, as does reading an earlier
        # name of x: `y = x.relu_(); y.add_(1)` leaves x, y and the last result one tensor.
        current = self.now.get(old, old)
        names = self.names.pop(current, [current])
        names.append(new)
        for value in names:
            self.now[value] = new
        self.names[new] = names
