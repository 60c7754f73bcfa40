"""Every block is free, held or idle, and a published one stays findable until it is reused."""

import random

import pytest

from scheduler.blocks import BlockPool


def _published(pool: BlockPool, *keys: bytes) -> list[int]:
    """Idle blocks, one per key, the first the longest idle."""
    blocks = [pool.allocate() for _ in keys]
    for key, block in zip(keys, blocks, strict=True):
        pool.publish(key, block)
    for block in blocks:
        pool.release(block)
    return blocks


def test_low_numbers_are_given_first() -> None:
    pool = BlockPool(3)
    assert [pool.allocate() for _ in range(3)] == [0, 1, 2]


def test_a_block_is_free_again_when_its_last_holder_lets_go() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.retain(block)
    pool.release(block)
    assert (pool.held, pool.free) == (1, 1)
    pool.check({block: 1})
    pool.release(block)
    assert (pool.held, pool.free, pool.available) == (0, 2, 2)
    pool.check({})


def test_releasing_more_often_than_retaining_is_our_own_mistake() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.release(block)
    with pytest.raises(AssertionError, match="more often"):
        pool.release(block)


def test_a_published_block_idles_and_is_found() -> None:
    pool = BlockPool(2)
    (block,) = _published(pool, b"a")
    assert (pool.free, pool.idle, pool.available, pool.held) == (1, 1, 2, 0)
    assert pool.find(b"a") == block
    assert pool.is_idle(block)
    pool.check({})


def test_retaining_an_idle_block_holds_it_again() -> None:
    pool = BlockPool(1)
    (block,) = _published(pool, b"a")
    pool.retain(block)
    assert (pool.idle, pool.held) == (0, 1)
    pool.check({block: 1})


def test_free_blocks_go_before_idle_ones_and_the_longest_idle_goes_first() -> None:
    pool = BlockPool(3)
    first, second = _published(pool, b"a", b"b")
    assert pool.allocate() == 2
    assert pool.allocate() == first
    assert pool.find(b"a") is None
    assert pool.find(b"b") == second
    pool.check({2: 1, first: 1})


def test_use_makes_a_block_the_last_to_give_way() -> None:
    pool = BlockPool(2)
    first, second = _published(pool, b"a", b"b")
    pool.retain(first)
    pool.release(first)
    assert pool.allocate() == second


def test_the_first_to_publish_a_key_keeps_it() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.publish(b"a", first)
    pool.publish(b"a", second)
    pool.publish(b"b", first)  # a block has one name
    assert pool.find(b"a") == first
    assert pool.find(b"b") is None
    pool.release(second)
    assert pool.free == 1
    pool.check({first: 1})


def test_only_a_held_block_can_be_published() -> None:
    with pytest.raises(AssertionError, match="not held"):
        BlockPool(1).publish(b"a", 0)


def test_nobody_finds_what_was_withdrawn() -> None:
    pool = BlockPool(2)
    idle, held = _published(pool, b"a", b"b")
    pool.retain(held)
    for block in (idle, held):
        pool.withdraw(block)
        pool.withdraw(block)
    assert pool.find(b"a") is pool.find(b"b") is None
    assert (pool.free, pool.idle, pool.held) == (1, 0, 1)
    pool.check({held: 1})
    pool.release(held)
    assert (pool.free, pool.idle, pool.held) == (2, 0, 0)
    pool.check({})


def test_check_finds_a_lost_block_and_a_wrong_count() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    with pytest.raises(AssertionError, match="differ"):
        pool.check({})
    with pytest.raises(AssertionError, match="differ"):
        pool.check({block: 2})
    pool._free.clear()
    with pytest.raises(AssertionError, match="lost"):
        pool.check({block: 1})


def test_random_use_keeps_the_partition() -> None:
    rng, pool, held = random.Random(1), BlockPool(8), dict[int, int]()
    for _ in range(2000):
        choice = rng.random()
        if choice < 0.4 and pool.available:
            held[pool.allocate()] = 1
        elif choice < 0.55 and held:
            pool.publish(bytes([rng.randrange(12)]), rng.choice(list(held)))
        elif choice < 0.65 and (block := pool.find(bytes([rng.randrange(12)]))) is not None:
            pool.retain(block)
            held[block] = held.get(block, 0) + 1
        elif held:
            block = rng.choice(list(held))
            pool.release(block)
            held[block] -= 1
            held = {block: count for block, count in held.items() if count}
        pool.check(held)
