"""Slots: taking, giving back, and the prefixes they share."""

from backbone_cases import CONFIG
from hypothesis import given
from hypothesis import strategies as st

from aqaa.engine.backbone.cache import SlotCache

ids_lists = st.lists(st.integers(0, 2), min_size=1, max_size=10)


def test_no_slot_left_gives_none():
    cache = SlotCache(CONFIG, 2, 16)
    assert cache.acquire([1]) == (0, 0)
    assert cache.acquire([1]) == (1, 0)
    assert cache.acquire([1]) is None
    cache.release(1)
    assert cache.acquire([1]) == (1, 0)


def test_the_slot_released_first_is_overwritten_first():
    cache = SlotCache(CONFIG, 3, 16)
    for _ in range(3):
        cache.acquire([1])
    for slot in (2, 0, 1):
        cache.release(slot)
    assert [cache.acquire([1])[0] for _ in range(3)] == [2, 0, 1]


def test_a_prefix_of_a_running_request_is_copied_and_the_last_id_left_to_compute():
    cache = SlotCache(CONFIG, 2, 16)
    first, _ = cache.acquire([5, 6, 7, 8])
    cache.record(first, [5, 6, 7, 8])
    cache.by_slot_LKSGCd[:, :, first] = 3.0
    second, reused = cache.acquire([5, 6, 7])
    assert reused == 2
    assert (cache.by_slot_LKSGCd[:, :, second, :, :2] == 3).all()
    assert (cache.by_slot_LKSGCd[:, :, second, :, 2:] == 0).all()


def test_only_computed_ids_are_shared():
    cache = SlotCache(CONFIG, 2, 16)
    first, _ = cache.acquire([5, 6, 7, 8])
    cache.record(first, [5])
    assert cache.acquire([5, 6, 7, 8]) == (1, 1)


@given(st.lists(st.tuples(st.booleans(), ids_lists), max_size=30))
def test_what_a_slot_is_given_is_what_a_computation_would_have_written(actions):
    """Each position holds the running sum of its prefix, so that a wrong copy cannot go unseen."""
    cache, busy = SlotCache(CONFIG, 3, 16), []
    for release, ids in actions:
        if release and busy:
            cache.release(busy.pop(0))
            continue
        taken = cache.acquire(ids)
        assert (taken is None) == (len(busy) == 3)
        if taken is None:
            continue
        slot, reused = taken
        assert reused < len(ids)
        busy.append(slot)
        cache.record(slot, ids[reused:])
        for position in range(len(ids)):
            key = 0
            for token_id in ids[: position + 1]:
                key = key * 3 + token_id + 1
            if position < reused:
                assert (cache.by_slot_LKSGCd[:, :, slot, :, position] == key).all()
            cache.by_slot_LKSGCd[:, :, slot, :, position] = key
