"""What `top` shows and what its keys do, without a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picosnitch_exporter.terminal.layout import Cut, amount, cells, fit
from picosnitch_exporter.terminal.top_view import Key, Look, TopView


def executables(*names: str) -> dict[str, object]:
    return {
        "not_ready": None,
        "executables": [
            {
                "exe": name,
                "sha256": f"{number:064x}",
                "workload": "",
                "parent": "/bin/sh",
                "verdict": "clean",
                "sent": 10 * number,
                "received": 0,
                "connections": 1,
                "failures": 0,
                "active": 1,
                "domains": 0,
                "last_seen": 1.0,
            }
            for number, name in enumerate(names)
        ],
    }


def connections(of: int, exe: str) -> dict[str, object]:
    entry = {"id": "x", "pid": 7, "last": [1, 2], "open": [3, 4], "protocol": "tcp", "uid": 0}
    entry |= {"direction": "inbound", "address": "10.0.0.1", "port": 443, "local_port": 5}
    entry |= {"domain": "com.example", "command": "x\x1b[31m", "parent": "/bin/sh"}
    return {"exe": exe, "sha256": f"{of:064x}", "window": 1, "total": 1, "connections": [entry]}


def screen(view: TopView, *, width: int = 120, height: int = 10) -> str:
    return "\n".join(row.text.rstrip() for row in view.rows(width=width, height=height))


def shown(*names: str) -> TopView:
    view = TopView()
    view.take(executables(*names), 1.0)
    return view


def order(view: TopView) -> list[str]:
    lines = [row.text.split()[0] for row in view.rows(width=120, height=50) if row.text.strip()]
    return [line for line in lines if line.startswith("/")]


def test_largest_comes_first_at_the_start() -> None:
    assert order(shown("/a", "/b", "/c")) == ["/c", "/b", "/a"]


def test_order_follows_the_column_when_it_is_chosen_or_turned() -> None:
    view = shown("/b", "/c", "/a")

    view.press(">")
    assert order(view) == ["/a", "/b", "/c"]
    assert "EXECUTABLE*" in screen(view)
    view.press("r")
    assert order(view) == ["/c", "/b", "/a"]
    view.press("<")
    assert order(view) == ["/a", "/c", "/b"]


def test_filter_leaves_the_lines_that_have_the_text() -> None:
    view = shown("/usr/bin/Curl", "/usr/bin/wget")

    for key in "/curx":
        view.press(key)
    view.press(Key.BACKSPACE)
    assert "filter: cur_" in screen(view)
    view.press(Key.ENTER)

    assert order(view) == ["/usr/bin/Curl"]
    assert "1 of 2 executables" in screen(view)
    view.press(Key.ESCAPE)
    assert len(order(view)) == 2


def test_letters_are_text_when_filtering() -> None:
    view = shown("/q")
    for key in "/qjp":
        view.press(key)

    assert (view.has_quit, view.is_paused) == (False, False)
    view.press(Key.ESCAPE)
    assert "filter" not in screen(view).splitlines()[-1][:6]


def test_connections_are_shown_when_an_executable_is_opened() -> None:
    view = shown("/a", "/b")
    view.press(Key.DOWN)

    assert view.press(Key.ENTER)
    assert view.request == {"show": "connections", "exe": "/a", "sha256": f"{0:064x}"}
    view.take(connections(0, "/a"), 2.0)
    text = screen(view)
    assert "/a (clean)  1 connections" in text
    assert "10.0.0.1:443" in text
    assert "example.com" in text
    assert "\x1b" not in text
    assert view.press(Key.ESCAPE)
    assert view.request == {"show": "executables"}


def test_answer_is_dropped_when_another_executable_was_opened_since() -> None:
    view = shown("/a", "/b")
    view.press(Key.ENTER)

    view.take(connections(0, "/a"), 2.0)

    assert "0 connections" in screen(view)


def test_selection_stays_on_its_line_when_the_order_changes() -> None:
    view = shown("/a", "/b", "/c")
    view.press(Key.END)
    view.press("r")

    assert [
        row.text.split()[0] for row in view.rows(width=80, height=9) if row.look is Look.SELECTED
    ] == ["/a"]


def test_first_line_stays_selected_when_nobody_has_moved() -> None:
    view = shown("/a", "/b")
    view.press("r")

    selected = [row for row in view.rows(width=80, height=9) if row.look is Look.SELECTED]
    assert selected[0].text.startswith("/a")


def test_display_says_that_it_is_paused_or_not_ready() -> None:
    view = TopView()
    view.take({**executables(), "not_ready": "starting"}, 1.0)
    view.press("p")
    assert "0 executables  PAUSED  not ready: starting" in screen(view)

    view.take(executables("/a"), 2.0)
    assert "0 executables  PAUSED" in screen(view)
    view.press("p")
    view.take(executables("/a"), 3.0)
    assert "1 executables" in screen(view)


def test_any_key_closes_the_help() -> None:
    view = shown("/a")
    view.press("h")
    assert "the connections of the selected" in screen(view)
    view.press("q")

    assert not view.has_quit
    assert "1 executables" in screen(view)


@given(
    names=st.lists(st.text(max_size=30), max_size=6),
    width=st.integers(1, 250),
    height=st.integers(1, 20),
    keys=st.lists(st.sampled_from([*Key, *"<>rph/gG"]), max_size=12),
)
def test_screen_is_never_exceeded_whatever_its_size(
    names: list[str], width: int, height: int, keys: list[Key | str]
) -> None:
    view = shown(*names)
    for key in keys:
        view.press(key)
        rows = view.rows(width=width, height=height)
        assert len(rows) <= height
        assert all(cells(row.text) <= width for row in rows)
        text = "".join(row.text for row in rows)
        assert not any(unicodedata.category(character) == "Cc" for character in text)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("cut", "cut_text"), [(Cut.START, "~\u65e5\u65e5"), (Cut.END, "\u65e5\u65e5~")]
)
def test_text_is_cut_in_a_moment_when_it_is_long(cut: Cut, cut_text: str) -> None:
    """With time that grows by the square, this would take hours."""
    assert fit("\u65e5" * 1_000_000, 5, cut=cut) == cut_text


@given(st.text(), st.integers(0, 40), st.sampled_from(Cut))
def test_text_fits_exactly(text: str, width: int, cut: Cut) -> None:
    assert cells(fit(text, width, cut=cut)) == width


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, ""),
        (0.4, ""),
        (1, "1"),
        (1023, "1023"),
        (1023.7, "1.0K"),
        (1024, "1.0K"),
        (10_240, "10K"),
        (1 << 20, "1.0M"),
        (1 << 62, "4.0E"),
        (1 << 80, "1048576E"),
    ],
)
def test_amount_is_short(value: float, text: str) -> None:
    assert amount(value) == text
