"""Functions shipped by value: what is signed is what runs, and nothing else is unpickled."""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import pickle
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import FunctionNotAllowed, InvalidInput, MissingDependency, UnknownTask
from toolkit.execution import as_task, dump_function, functions, load_function, read_key, task
from toolkit.records import Retry

KEY = b"0123456789abcdef0123456789abcdef"
RUN = "run-000001"


def run_cell(source: str) -> dict[str, Any]:
    """Run source as a kernel runs a cell; returns its names."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)  # noqa: S102 - that is what a kernel does
    return namespace


def shipped(fn: Any) -> Any:
    return load_function(dump_function(fn, RUN, KEY), RUN, KEY)


def test_a_function_arrives_with_its_options_and_what_it_captures():
    offset = 10

    made = task(
        lambda items, state: [i + offset + state for i in items],
        name="adds",
        batched=True,
        setup=lambda: 100,
        retry=Retry(max_attempts=2),
    )
    loaded = shipped(made)
    assert loaded([1, 2], 100) == [111, 112]
    assert loaded.setup is not None
    assert loaded.setup() == 100
    assert (loaded.name, loaded.batched, loaded.retry) == ("adds", True, Retry(max_attempts=2))
    assert loaded.code_version == made.code_version
    assert len(loaded.digest) == 64


def test_a_plain_function_and_a_task_of_a_module_can_be_shipped():
    assert shipped(os.path.basename)("a/b") == "b"
    assert shipped(as_task(len))("abc") == 3


def test_a_cell_runs_in_a_process_that_never_saw_it():
    cell = run_cell("import math\nBASE = 2\ndef helper(x): return math.sqrt(x) + BASE\ndef f(x): return helper(x)")
    blob = dump_function(cell["f"], RUN, KEY)
    program = f"from toolkit.execution import load_function\nprint(load_function({blob!r}, {RUN!r}, {KEY!r})(9))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "5.0"


def test_what_is_captured_tells_two_functions_of_one_source_apart():
    def make(n: int) -> Any:
        return lambda item: item + n

    first, second = shipped(make(1)), shipped(make(2))
    assert first.code_version == second.code_version
    assert first.digest != second.digest


# --------------------------------------------------------------------------- refusals


class Bomb:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def signed(payload: bytes, key: bytes, run_id: str = RUN, python: str = functions.PYTHON) -> bytes:
    """A blob as an attacker would make it, who knows the format."""
    mac = hmac.new(key, b"toolkit function 1\0" + run_id.encode() + b"\0" + python.encode() + b"\0" + payload, "sha256")
    return b"TKF1" + bytes([len(python)]) + python.encode() + mac.digest() + payload


def test_nothing_is_unpickled_before_the_signature_was_verified(tmp_path: Path):
    trace = tmp_path / "trace"
    payload = pickle.dumps(Bomb(trace))
    for blob in (signed(payload, b"x" * 32), payload, b"", b"TKF1", signed(payload, KEY, "run-000002")):
        with pytest.raises(FunctionNotAllowed):
            load_function(blob, RUN, KEY)
    assert not trace.exists()
    with pytest.raises(UnknownTask):  # the same bomb under the right key does go off: the test can fail
        load_function(signed(payload, KEY), RUN, KEY)
    assert trace.exists()


def test_every_byte_of_a_blob_is_covered():
    blob = dump_function(len, RUN, KEY)
    for position in range(len(blob)):
        changed = bytearray(blob)
        changed[position] ^= 1
        with pytest.raises(FunctionNotAllowed):
            load_function(bytes(changed), RUN, KEY)
    for cut in (1, len(blob) // 2, len(blob) - 1):
        with pytest.raises(FunctionNotAllowed):
            load_function(blob[:cut], RUN, KEY)
    assert load_function(blob, RUN, KEY)("ab") == 2


def test_a_blob_is_good_for_its_run_only():
    blob = dump_function(len, RUN, KEY)
    with pytest.raises(FunctionNotAllowed, match="not for this run"):
        load_function(blob, "run-000002", KEY)


def test_the_parts_under_the_signature_cannot_be_shifted():
    blob = dump_function(len, RUN, KEY)
    start = 5 + blob[4]
    moved = b"TKF1" + bytes([blob[4] - 1]) + blob[5 : start - 1] + blob[start:]
    with pytest.raises(FunctionNotAllowed):
        load_function(moved, RUN + blob[start - 1 : start].decode(), KEY)


@pytest.mark.parametrize("key", [None, b"", b"short"])
def test_without_a_key_functions_are_off(key: Any):
    with pytest.raises(FunctionNotAllowed, match="key"):
        dump_function(len, RUN, key)
    with pytest.raises(FunctionNotAllowed, match="key"):
        load_function(dump_function(len, RUN, KEY), RUN, key)


def test_another_python_is_refused_by_name():
    with pytest.raises(FunctionNotAllowed, match=rf"by Python 2\.7 and this worker runs {functions.PYTHON}"):
        load_function(signed(b"", KEY, python="2.7"), RUN, KEY)
    with pytest.raises(FunctionNotAllowed, match=r"this worker runs 3\.99"):
        load_function(dump_function(len, RUN, KEY), RUN, KEY, "3.99")


def test_a_large_function_is_refused_on_both_sides_with_a_hint(monkeypatch: pytest.MonkeyPatch):
    ballast = os.urandom(100_000)
    blob = dump_function(lambda item: (item, ballast), RUN, KEY)
    monkeypatch.setattr(functions, "MAX_FUNCTION_BYTES", 50_000)
    with pytest.raises(FunctionNotAllowed, match="setup="):
        dump_function(lambda item: (item, ballast), RUN, KEY)
    with pytest.raises(FunctionNotAllowed, match="setup="):
        load_function(blob, RUN, KEY)


def test_a_wrong_run_id_is_refused():
    with pytest.raises(InvalidInput, match="run id"):
        dump_function(len, "no such id\0", KEY)


# --------------------------------------------------------------------------- what cannot be pickled


def test_what_cannot_be_pickled_is_named(tmp_path: Path):
    lock = threading.Lock()
    with pytest.raises(InvalidInput, match=r"uses lock \(lock\).*setup"):
        dump_function(lambda item: (item, lock), RUN, KEY)
    with (tmp_path / "log").open("wb") as log, pytest.raises(InvalidInput, match=r"uses log \(BufferedWriter\)"):
        dump_function(lambda item: log.write(repr(item)), RUN, KEY)


def test_a_culprit_is_found_behind_other_functions_in_defaults_and_in_setup():
    cell = run_cell(
        "import threading\nLOCK = threading.Lock()\n"
        "def helper(x):\n    with LOCK: return x\n"
        "def f(x): return [helper(y) for y in x]\n"
    )
    with pytest.raises(InvalidInput, match=r"uses helper -> LOCK \(lock\)"):
        dump_function(cell["f"], RUN, KEY)
    lock = cell["LOCK"]
    with pytest.raises(InvalidInput, match=r"default argument 0 \(lock\)"):
        dump_function(lambda item, lock=lock: item, RUN, KEY)
    with pytest.raises(InvalidInput, match=r"uses keyword \(lock\)"):
        dump_function(functools.partial(cell["helper"], keyword=lock), RUN, KEY)
    with pytest.raises(InvalidInput, match=r"uses lock \(lock\)"):
        dump_function(task(lambda item, state: item, setup=lambda: lock), RUN, KEY)


def test_a_reducer_that_raises_anything_is_told_as_input():
    class Odd:
        def __reduce__(self) -> Any:
            raise KeyError("odd")

    odd = Odd()
    with pytest.raises(InvalidInput, match=r"uses odd \(Odd\).*KeyError"):
        dump_function(lambda item: odd, RUN, KEY)


def test_without_cloudpickle_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(MissingDependency, match=r"batch-analytics-toolkit\[cluster\]"):
        dump_function(len, RUN, KEY)


def test_a_function_whose_module_is_missing_here_says_so():
    payload = b"cno_such_module_here\nf\n."
    with pytest.raises(UnknownTask, match="no_such_module_here"):
        load_function(signed(payload, KEY), RUN, KEY)


def test_directories_of_the_run_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tk_probe_shipped.py").write_text("def f(x): return x + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import tk_probe_shipped

    blob = dump_function(tk_probe_shipped.f, RUN, KEY)
    monkeypatch.delitem(sys.modules, "tk_probe_shipped")
    sys.path.remove(str(tmp_path))
    with pytest.raises(UnknownTask):
        load_function(blob, RUN, KEY)
    assert load_function(blob, RUN, KEY, sys_path=[str(tmp_path)])(1) == 2


# --------------------------------------------------------------------------- the key file


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(KEY + b"\n")
    return path


def test_a_private_key_file_is_read_without_its_line_end(key_file: Path):
    assert read_key(key_file) == KEY
    assert read_key(str(key_file)) == KEY
    key_file.chmod(0o400)
    assert read_key(key_file) == KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601, 0o610, 0o777])
def test_a_key_file_that_others_can_use_is_refused(key_file: Path, mode: int):
    key_file.chmod(mode)
    with pytest.raises(FunctionNotAllowed, match=f"mode {mode:04o}"):
        read_key(key_file)


def test_a_key_file_of_another_user_is_refused(key_file: Path, monkeypatch: pytest.MonkeyPatch):
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(FunctionNotAllowed, match=f"belongs to user {owner}"):
        read_key(key_file)


def test_what_is_no_key_file_is_refused(tmp_path: Path, key_file: Path):
    with pytest.raises(FunctionNotAllowed, match="No such file"):
        read_key(tmp_path / "none")
    with pytest.raises(FunctionNotAllowed, match="not a regular file"):
        read_key(tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(FunctionNotAllowed, match="not a regular file"):
        read_key(tmp_path / "fifo")
    key_file.write_bytes(b"short\n")
    with pytest.raises(FunctionNotAllowed, match="5 bytes"):
        read_key(key_file)


def test_the_format_is_as_documented():
    """Another implementation, from the text alone, reads what this one writes."""
    blob = dump_function(len, RUN, KEY)
    magic, length = struct.unpack_from("<4sB", blob)
    python, signature, payload = blob[5 : 5 + length], blob[5 + length : 37 + length], blob[37 + length :]
    assert (magic, python.decode()) == (b"TKF1", functions.PYTHON)
    text = b"toolkit function 1\0" + RUN.encode() + b"\0" + python + b"\0" + payload
    assert signature == hmac.new(KEY, text, hashlib.sha256).digest()
