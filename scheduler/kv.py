"""The KV ledger: which sequence holds and is promised which blocks.

A sequence with a budget is promised its floor at admission (the cap, unless it is elastic), so up
to there it always finds its next block. Beyond, and without a budget, it grows into what is neither
held nor promised, and may find nothing. Knows counts, not tensors; the runner moves the entries.
"""

from collections.abc import Iterable

from scheduler.blocks import BlockPool
from scheduler.classes import BudgetClass, BudgetClasses
from scheduler.errors import InvalidRequest
from scheduler.prefix import block_keys
from scheduler.request import Request, Sequence


class KvLedger:
    """Block tables and promises of running sequences, over one pool."""

    def __init__(self, total_blocks: int, block_size: int, prefix_cache: bool) -> None:
        self.pool = BlockPool(total_blocks)
        self.block_size = block_size
        self.promised = 0  # blocks that budgeted sequences may still take
        self.classes = BudgetClasses(total_blocks * block_size)
        self._prefix_cache = prefix_cache
        self._keys: dict[int, list[bytes]] = {}  # of live requests, by request key

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def needed_blocks(self, request: Request) -> int:
        """Blocks that one output of `request` must be able to hold."""
        return self.blocks_for(request.needed_tokens)

    def fitting_blocks(self, request: Request) -> int:
        """Blocks that one output of `request` must be able to hold.

        Raises:
            InvalidRequest: the whole pool has fewer.
        """
        needed = self.needed_blocks(request)
        if needed <= self.pool.total:
            return needed
        field = "stopping.max_tokens"
        if request.budget is not None:
            field = f"kv_budget.{'min' if request.budget.elastic else 'max'}_tokens"
        raise InvalidRequest(
            field,
            f"one output may hold {request.needed_tokens} KV tokens, the whole pool holds "
            f"{self.pool.total * self.block_size}; ask for fewer tokens or a smaller KV budget",
        )

    def surplus(self, sequence: Sequence) -> int:
        """Blocks that a sequence with a budget holds beyond what it was promised."""
        return max(len(sequence.blocks) - self.needed_blocks(sequence.request), 0)

    def room(self, sequence: Sequence) -> int:
        """Entries that a sequence with a budget may write into its own and into spare blocks."""
        own = max(len(sequence.blocks), self.needed_blocks(sequence.request))
        return (own + self.spare) * self.block_size - sequence.kv_tokens

    @property
    def spare(self) -> int:
        """Blocks that are neither held nor promised."""
        return self.pool.available - self.promised

    def admit(self, sequence: Sequence, watermark: int) -> bool:
        """Gives a waiting sequence its shared prompt blocks and its promise, if both fit."""
        if self.lacking_to_admit(sequence, watermark) > 0:
            return False
        shared = self._shared_blocks(sequence)
        for block in shared:
            self.pool.retain(block)
        sequence.blocks = shared
        sequence.table_clean = 0
        sequence.published = len(shared)
        sequence.computed = sequence.kv_tokens = len(shared) * self.block_size
        self._count(sequence, 1)
        self.promised += self._owed(sequence)
        return True

    def lacking_to_admit(self, sequence: Sequence, watermark: int) -> int:
        """Spare blocks that lack for `admit`; none if not positive.

        A sequence with a budget needs its promise. Another needs its known tokens and `watermark`
        blocks, which keeps those already running from being preempted at once.
        """
        shared = self._shared_blocks(sequence)
        if sequence.request.budget is not None:
            needed = self.needed_blocks(sequence.request) - len(shared)
        else:
            needed = self.blocks_for(len(sequence.tokens)) - len(shared) + watermark
        return needed - (self.spare - sum(self.pool.is_idle(block) for block in shared))

    def lacking_to_grow(self, sequence: Sequence, tokens: int) -> int:
        """Spare blocks that lack for `grow`; none if not positive."""
        return self._missing(sequence, tokens) - self._owed(sequence) - self.spare

    def grow(self, sequence: Sequence, tokens: int) -> bool:
        """Makes room for `tokens` more entries; False (and nothing done) if blocks lack."""
        missing = self._missing(sequence, tokens)
        if missing > self._owed(sequence) + self.spare:
            return False
        self.promised -= self._owed(sequence)
        taken = [self.pool.allocate() for _ in range(missing)]
        sequence.blocks += taken
        sequence.budget_class.blocks += len(taken)
        self.promised += self._owed(sequence)
        usage = sequence.usage
        usage.kv_blocks_peak = max(usage.kv_blocks_peak, len(sequence.blocks))
        return True

    def shrink(self, sequence: Sequence, tokens: int) -> None:
        """Frees the blocks beyond `tokens` entries; those below its floor stay promised."""
        self.promised -= self._owed(sequence)
        keep = self.blocks_for(tokens)
        sequence.budget_class.blocks -= len(sequence.blocks) - keep
        sequence.budget_class.tokens -= sequence.kv_tokens - tokens
        self._release(sequence.blocks[keep:])
        del sequence.blocks[keep:]
        sequence.table_clean = min(sequence.table_clean, keep)
        sequence.kv_tokens = tokens
        self.promised += self._owed(sequence)

    def drop(self, sequence: Sequence, blocks: list[int]) -> None:
        """Takes full blocks out of a table, with their entries; those below its floor stay
        promised."""
        gone = set(blocks)
        self.promised -= self._owed(sequence)
        first = next(i for i, block in enumerate(sequence.blocks) if block in gone)
        self._release(blocks)
        sequence.blocks = [block for block in sequence.blocks if block not in gone]
        sequence.table_clean = min(sequence.table_clean, first)
        sequence.kv_tokens -= len(blocks) * self.block_size
        sequence.budget_class.blocks -= len(blocks)
        sequence.budget_class.tokens -= len(blocks) * self.block_size
        self.promised += self._owed(sequence)

    def release(self, sequence: Sequence) -> None:
        """Takes everything back: blocks and promise."""
        self.promised -= self._owed(sequence)
        self._count(sequence, -1)
        self._release(sequence.blocks)
        sequence.blocks = []
        sequence.kv_tokens = sequence.computed = sequence.published = sequence.table_clean = 0

    def publish(self, sequence: Sequence) -> None:
        """Makes the full prompt blocks that are written by now findable by others."""
        keys = self._shareable_keys(sequence.request)
        full = min(sequence.computed // self.block_size, len(keys))
        for i in range(sequence.published, full):
            self.pool.publish(keys[i], sequence.blocks[i])
        sequence.published = max(sequence.published, full)

    def withdraw(self, sequence: Sequence) -> None:
        """Lets nobody find what a running sequence holds; others compute the prompt anew."""
        for block in sequence.blocks:
            self.pool.withdraw(block)

    def forget(self, request: Request) -> None:
        """Drops what is remembered of a request that ended; its published blocks stay."""
        self._keys.pop(request.key, None)

    def check(self, running: Iterable[Sequence]) -> None:
        """Asserts that every block is accounted for and every promise can be kept."""
        references: dict[int, int] = {}
        owed = 0
        for sequence in running:
            assert len(sequence.blocks) >= self.blocks_for(sequence.kv_tokens)
            assert len(set(sequence.blocks)) == len(sequence.blocks)
            owed += self._owed(sequence)
            for block in sequence.blocks:
                references[block] = references.get(block, 0) + 1
        self.pool.check(references)
        assert owed == self.promised, f"{self.promised} blocks are promised, {owed} are owed"
        assert self.promised <= self.pool.available, "a promise cannot be kept"

    def check_classes(self, live: Iterable[Sequence]) -> None:
        """Asserts that the budget classes count exactly these sequences and what they hold."""
        expected: dict[int, BudgetClass] = {}
        for sequence in live:
            bound = self.classes.of(sequence.request.budget).bound
            counts = expected.setdefault(bound, BudgetClass(bound))
            counts.live += 1
            counts.running += sequence.row is not None
            counts.blocks += len(sequence.blocks)
            counts.tokens += sequence.kv_tokens
        assert {counts.bound: counts for counts in self.classes} == expected
        in_tables = sum(counts.blocks for counts in self.classes)
        assert in_tables == self.pool.held + self.pool.shared, "classes and pool differ"

    def _count(self, sequence: Sequence, sign: int) -> None:
        """Adds (1) or takes away (-1) a running sequence, with what it holds, in its class."""
        counts = sequence.budget_class
        counts.running += sign
        counts.blocks += sign * len(sequence.blocks)
        counts.tokens += sign * sequence.kv_tokens

    def _missing(self, sequence: Sequence, tokens: int) -> int:
        return self.blocks_for(sequence.kv_tokens + tokens) - len(sequence.blocks)

    def _owed(self, sequence: Sequence) -> int:
        """Promised blocks that it has not taken."""
        if sequence.request.budget is None:
            return 0
        return max(self.needed_blocks(sequence.request) - len(sequence.blocks), 0)

    def _release(self, blocks: list[int]) -> None:
        for block in reversed(blocks):  # a prefix's tail idles longer ago than its head
            self.pool.release(block)

    def _shareable_keys(self, request: Request) -> list[bytes]:
        """Keys of the request's full prompt blocks; none where nobody could share them."""
        if not request.shares_prompt or not (self._prefix_cache or request.n > 1):
            return []
        if request.key not in self._keys:
            # Without the cache the n outputs still share: under a salt that is theirs alone.
            shared = f"shared\0{request.tenant.name}\0{request.salt}"
            salt = shared if self._prefix_cache else f"own\0{request.key}"
            self._keys[request.key] = block_keys(request.prompt, salt, self.block_size)
        return self._keys[request.key]

    def _shared_blocks(self, sequence: Sequence) -> list[int]:
        """The longest run of cached prompt blocks; one known token is left to compute."""
        limit = (len(sequence.tokens) - 1) // self.block_size
        blocks = []
        for key in self._shareable_keys(sequence.request)[:limit]:
            block = self.pool.find(key)
            if block is None:
                break
            blocks.append(block)
        return blocks
