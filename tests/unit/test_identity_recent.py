from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.identity.recent import Recent


def make(*, max_entries: int = 3, max_bytes: int = 100) -> Recent[int, str]:
    return Recent(max_entries=max_entries, max_bytes=max_bytes)


def test_least_recently_used_goes_first_when_there_are_too_many() -> None:
    recent = make(max_entries=2)
    recent.put(1, "a", weight_bytes=1)
    recent.put(2, "b", weight_bytes=1)
    assert recent.get(1) == "a"
    recent.put(3, "c", weight_bytes=1)
    assert [recent.get(key) for key in (1, 2, 3)] == ["a", None, "c"]


def test_as_many_go_as_weigh_too_much() -> None:
    recent = make()
    recent.put(1, "a", weight_bytes=30)
    recent.put(2, "b", weight_bytes=30)
    recent.put(3, "c", weight_bytes=90)
    assert (1 in recent, 2 in recent, 3 in recent) == (False, False, True)


def test_latest_stays_when_it_alone_is_too_heavy() -> None:
    recent = make()
    recent.put(1, "a", weight_bytes=1000)
    assert recent.get(1) == "a"


def test_weight_is_the_new_one_when_a_value_is_replaced_or_taken() -> None:
    recent = make()
    recent.put(1, "a", weight_bytes=90)
    recent.put(1, "b", weight_bytes=10)
    recent.put(2, "c", weight_bytes=90)
    assert (recent.pop(2), recent.pop(2)) == ("c", None)
    recent.put(3, "d", weight_bytes=90)
    assert (recent.get(1), recent.get(3)) == ("b", "d")


@given(steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.booleans()), max_size=40))
def test_bounds_hold_whatever_happens(steps: list[tuple[int, int, bool]]) -> None:
    recent = make()
    weights: dict[int, int] = {}
    for key, weight_bytes, is_put in steps:
        if is_put:
            recent.put(key, str(key), weight_bytes=weight_bytes)
            weights[key] = weight_bytes
        else:
            recent.pop(key)
        kept = {key for key in weights if key in recent}
        assert len(recent) == len(kept) <= 3
        assert sum(weights[key] for key in kept) == recent._bytes
        assert recent._bytes <= 100 or len(kept) == 1
