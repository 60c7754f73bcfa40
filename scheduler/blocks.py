"""The block pool: which blocks are free, held (by how many), or idle with a cached prefix.

Knows blocks and keys, not sequences. Every block is in exactly one of three states; `check` proves
it.
"""

from collections import OrderedDict


class BlockPool:
    """Blocks `0 .. total`, reference-counted; released prefix blocks stay findable until reused."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = list(range(total - 1, -1, -1))  # a stack: low numbers first
        self._references = [0] * total
        self.shared = 0  # references beyond the first of their block
        self._idle: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Blocks that `allocate` can still give."""
        return len(self._free) + len(self._idle)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def idle(self) -> int:
        """Blocks held by nobody, kept for their cached prefix."""
        return len(self._idle)

    @property
    def held(self) -> int:
        return self.total - self.available

    def allocate(self) -> int:
        """A block with one reference; the longest idle prefix block gives way if none is free."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
        self._references[block] = 1
        return block

    def find(self, key: bytes) -> int | None:
        """The block that holds the prefix `key`, or None."""
        return self._block_of.get(key)

    def is_idle(self, block: int) -> bool:
        return block in self._idle

    def retain(self, block: int) -> None:
        """Adds a reference to a held or idle block."""
        self._idle.pop(block, None)
        self.shared += self._references[block] > 0
        self._references[block] += 1

    def release(self, block: int) -> None:
        """Drops a reference; the last one frees the block, or idles it if it is published."""
        assert self._references[block] > 0, f"block {block} is released more often than retained"
        self._references[block] -= 1
        if self._references[block] > 0:
            self.shared -= 1
        elif block in self._key_of:
            self._idle[block] = None
        else:
            self._free.append(block)

    def publish(self, key: bytes, block: int) -> None:
        """Makes a held block findable; the first to publish a key keeps it."""
        assert self._references[block] > 0, f"block {block} is published but not held"
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def withdraw(self, block: int) -> None:
        """Lets nobody find a block any more; those who hold it keep it."""
        if (key := self._key_of.pop(block, None)) is not None:
            del self._block_of[key]
            if block in self._idle:
                del self._idle[block]
                self._free.append(block)

    def check(self, references: dict[int, int]) -> None:
        """Asserts that free, idle and held partition the pool and that counts are `references`."""
        free, idle = set(self._free), set(self._idle)
        held = {block for block, count in enumerate(self._references) if count > 0}
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & idle, "a block is both free and idle"
        assert not free & held, "a block is both free and held"
        assert not idle & held, "a block is both idle and held"
        assert len(free) + len(idle) + len(held) == self.total, "a block is lost"
        actual = {block: self._references[block] for block in held}
        assert actual == references, "reference counts differ from the block tables"
        assert self.shared == sum(references.values()) - len(held)
        assert self._block_of == {key: block for block, key in self._key_of.items()}
        assert not free & self._key_of.keys(), "a free block is still findable"
        assert idle <= self._key_of.keys(), "an idle block cannot be found"
