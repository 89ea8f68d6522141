"""The sampling profiler, its text form, and the flame graph of it."""

from __future__ import annotations

import base64
import threading
import time
import xml.etree.ElementTree as ET
import zlib
from collections import Counter
from typing import Any

import pytest

from toolkit import notebook
from toolkit.client.profile import Profile
from toolkit.errors import LedgerCorrupt, RunStateError
from toolkit.execution import Runner, profiling
from toolkit.execution.tasks import as_task
from toolkit.notebook.flame import flame_graph
from toolkit.records import RunSpec

HOSTILE = '<script>alert("x")</script>&\x1b[31m\u202e\'"'
PATIENCE_S = 20.0


def hot(done: threading.Event) -> None:
    while not done.is_set():
        sum(range(200))


def outer(done: threading.Event) -> None:
    hot(done)


def sample(until: str) -> Counter[tuple[str, ...]]:
    """Execute a batch of one item until a function was seen."""
    done = threading.Event()
    sampler = profiling.Sampler(threading.get_ident(), 0.001)

    def watch() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if any(until in name for stack in sampler.stacks.copy() for name in stack):
                break
            time.sleep(0.001)
        done.set()

    task = as_task(outer)
    runner = Runner(task, RunSpec("run-0000000001", task.name), {})
    threading.Thread(target=watch, daemon=True).start()
    sampler.start()
    for _ in runner.run([done], [0], 1, on_item=lambda _position: False):
        pass
    return sampler.stop()


def test_a_sample_is_the_users_functions_outermost_first() -> None:
    stacks = sample("hot")
    short = [[name.rpartition(":")[2] for name in stack] for stack in stacks]
    deep = [names for names in short if "hot" in names]
    assert deep
    assert all(names[:2] == ["outer", "hot"] for names in deep)
    assert not [name for stack in stacks for name in stack if name.startswith("toolkit.execution.runner")]


def test_outside_user_code_there_are_no_samples_and_no_thread_is_left() -> None:
    with profiling.sampling(0.001) as stacks:
        time.sleep(0.05)
    assert stacks == {}
    assert "toolkit-profiler" not in [thread.name for thread in threading.enumerate()]


def test_many_stacks_are_bounded_and_their_sum_stays() -> None:
    stacks = Counter({(f"f{i}", "g"): i + 1 for i in range(1000)})
    kept = profiling.bounded(stacks, 10)
    assert len(kept) == 11
    assert kept.total() == stacks.total()
    assert ("f999", "g") in kept
    assert profiling.bounded(kept, 20) == kept


def test_folded_stacks_are_read_again() -> None:
    stacks = Counter({("a:f", "a:g h"): 3, ("a:f",): 12})
    text = profiling.fold(stacks)
    assert text == "a:f 12\na:f;a:g h 3\n"
    assert profiling.unfold(text) == stacks
    with pytest.raises(ValueError, match="no folded stack"):
        profiling.unfold("a;b\n")


# --------------------------------------------------------------------------- the profile of a run


def event(stacks: Counter[tuple[str, ...]]) -> tuple[str, dict[str, str]]:
    packed = base64.b64encode(zlib.compress(profiling.fold(stacks).encode())).decode()
    return "5-0", {"event": "profile", "stacks": packed}


def profile(*stacks: Counter[tuple[str, ...]]) -> Profile:
    return Profile.read("run-0000000001", "t", [event(s) for s in stacks])


def test_profiles_of_batches_are_summed_up() -> None:
    found = profile(Counter({("f", "g"): 3, ("f",): 1}), Counter({("f", "g"): 2}))
    assert (found.batches, found.samples) == (2, 6)
    assert found.folded() == "f;g 5\nf 1\n"


def test_a_recursive_function_counts_once_a_sample() -> None:
    frame = profile(Counter({("f", "g", "f"): 4, ("f", "h"): 1})).frame()
    assert frame.to_dict("list") == {
        "function": ["f", "h", "g"], "own": [4, 1, 0], "total": [5, 1, 4], "share": [1.0, 0.2, 0.8],
    }  # fmt: skip


def test_a_run_without_a_profile_says_how_to_get_one() -> None:
    with pytest.raises(RunStateError, match="profile=True"):
        Profile.read("run-0000000001", "t", [("1-0", {"event": "created"})])


@pytest.mark.parametrize("stacks", ["", "%%%", "AAAA", base64.b64encode(zlib.compress(b"a;b")).decode()])
def test_a_profile_that_does_not_parse_is_corrupt(stacks: str) -> None:
    with pytest.raises(LedgerCorrupt, match="event 5-0"):
        Profile.read("run-0000000001", "t", [("5-0", {"event": "profile", "stacks": stacks})])


# --------------------------------------------------------------------------- the flame graph


def boxes(svg: str) -> dict[str, tuple[float, float, float]]:
    """Where each box is: left, right, row."""
    space = "{http://www.w3.org/2000/svg}"
    found = {}
    for group in ET.fromstring(svg).iter(f"{space}g"):  # noqa: S314 - ours
        rect, title = group.find(f"{space}rect"), group.find(f"{space}title")
        assert rect is not None
        assert title is not None
        x, width, y = (float(rect.attrib[name]) for name in ("x", "width", "y"))
        found[str(title.text).partition(" (")[0]] = (x, x + width, y)
    return found


def test_widths_are_shares_and_a_function_lies_on_its_caller() -> None:
    found = boxes(flame_graph(profile(Counter({("f", "g"): 30, ("f", "h"): 10, ("k",): 10}))))
    assert set(found) == {"f", "g", "h", "k"}
    left, right, row = found["f"]
    assert (right - left) / 1000 == pytest.approx(0.8, abs=0.01)
    for name in ("g", "h"):
        assert left <= found[name][0] < found[name][1] <= right + 0.1
        assert found[name][2] > row
    assert found["g"][1] <= found["h"][0] + 0.1
    assert found["k"][2] == row


def test_it_says_in_words_what_it_shows() -> None:
    svg = flame_graph(profile(Counter({("f", "g"): 3, ("f",): 1})))
    root = ET.fromstring(svg)  # noqa: S314 - ours
    assert root.attrib["role"] == "img"
    assert "4 samples of 1 batches" in root.attrib["aria-label"]
    assert "f 100 %, in it g 75 %" in root.attrib["aria-label"]


def test_hostile_names_are_text_and_nothing_else() -> None:
    hostile = Profile("run-0000000001", HOSTILE, 1, Counter({(HOSTILE, "f"): 5, (f"{HOSTILE}2",): 3}))
    for markup in (flame_graph(hostile), hostile._repr_html_(), notebook.profile_html(hostile)):
        assert "<script" not in markup
        assert "\x1b" not in markup
        assert "\u202e" not in markup
    root = ET.fromstring(flame_graph(hostile))  # noqa: S314 - ours
    allowed = {"svg", "title", "desc", "g", "rect", "text"}
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == allowed
    names = {name for element in root.iter() for name in element.attrib}
    assert not {name for name in names if name.startswith("on") or name in ("style", "href")}


def test_boxes_that_nobody_can_see_are_left_out() -> None:
    svg = flame_graph(profile(Counter({("f", f"g{i}"): 1 for i in range(5000)})))
    assert len(svg) < 20_000


def test_a_profile_shows_itself_with_the_notebook_room_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit import renderers

    shown: Any = profile(Counter({("f<",): 2}))
    monkeypatch.setattr(renderers, "_renderers", {})
    assert shown._repr_html_() == "<pre>f&lt; 2</pre>"
    notebook.register()
    assert "<svg" in shown._repr_html_()
