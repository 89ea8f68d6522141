"""The server's users: every command that the ledger sends stands in a role, and no dangerous one does."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.errors import InvalidInput
from toolkit.ledger import library
from toolkit.ledger.acl import ROLES, check_prefix, password_digest
from toolkit.transport.acl import broker_roles

PACKAGE = Path(__file__).parents[2] / "toolkit"
BY_NAME = {role.name: role for role in (*ROLES, *broker_roles(["celery"]))}
NOBODYS = {
    "flushall", "flushdb", "config", "keys", "scan", "debug", "shutdown", "monitor", "replicaof", "module", "acl",
    "acl|setuser", "script|flush", "function", "function|flush", "function|restore", "save", "bgsave", "swapdb",
    "client|kill", "migrate", "restore", "sort", "rename", "copy", "move", "randomkey", "script",
}  # fmt: skip


def test_the_roles() -> None:
    assert list(BY_NAME) == ["admin", "client", "worker", "dashboard", "broker-client", "broker-worker"]


@pytest.mark.parametrize("name", BY_NAME)
def test_a_role_names_commands_one_by_one_and_no_dangerous_one(name: str) -> None:
    role = BY_NAME[name]
    assert not NOBODYS.intersection(role.commands)
    assert not [c for c in role.commands if not re.fullmatch(r"[a-z_]+(\|[a-z_]+)?", c)]
    assert not [p for p in role.patterns if p in ("~*", "&*", "%R~*", "allkeys")]


@pytest.mark.parametrize("name", ["client", "worker", "dashboard"])
def test_only_the_admin_loads_functions_and_nobody_sends_scripts(name: str) -> None:
    assert not [c for c in BY_NAME[name].commands if c.startswith(("eval", "script", "function"))]


def test_the_commands_inside_the_functions_are_granted() -> None:
    """A new command in a function has to be added to `toolkit.ledger.acl`, or no user may call that function."""
    calls = re.findall(r"redis\.p?call\(([^,)]+)", library.source())
    inside = {word.lower() for call in calls for word in re.findall(r"'([A-Z]+)'", call)}
    assert {"hset", "lpush", "rpush", "xadd"} <= inside
    for name in ("admin", "client", "worker"):
        assert inside <= set(BY_NAME[name].commands), inside - set(BY_NAME[name].commands)


def test_the_commands_that_the_ledger_sends_itself_are_granted() -> None:
    sent = set()
    for path in (PACKAGE / "ledger").glob("*.py"):
        sent |= {c.lower() for c in re.findall(r"command\(\s*\"([A-Z_]+)\"", path.read_text(encoding="utf-8"))}
    assert {"hget", "zadd", "time", "xadd"} <= sent
    sent -= {"function"}  # the admin's, by its subcommand
    assert sent <= set(BY_NAME["admin"].commands), sent - set(BY_NAME["admin"].commands)


def test_a_dashboard_only_reads() -> None:
    role = BY_NAME["dashboard"]
    assert "fcall_ro" in role.commands
    assert not {"fcall", "hset", "del", "set", "zadd", "xadd"}.intersection(role.commands)
    assert all(pattern.startswith("%R~") for pattern in role.patterns)


def test_a_rule_holds_the_digest_and_never_the_password() -> None:
    password = "correct-horse-battery"
    rule = BY_NAME["worker"].rule("shop-", password_digest(password))
    assert rule.startswith("user shop-worker reset on #")
    assert hashlib.sha256(password.encode()).hexdigest() in rule
    assert password not in rule
    assert rule.count("\n") == 0


@pytest.mark.parametrize("prefix", ["a b", "a\n", "on >x ", "~*", "é", "x" * 65])
def test_a_prefix_cannot_smuggle_a_rule(prefix: str) -> None:
    with pytest.raises(InvalidInput):
        check_prefix(prefix)
    with pytest.raises(InvalidInput):
        broker_roles(["celery"], prefix)


@pytest.mark.parametrize("queue", ["", "*", "a b", "a\nuser x on nopass ~* +@all", "q ~*", "[a]", "x" * 201])
def test_a_queue_cannot_smuggle_a_pattern(queue: str) -> None:
    with pytest.raises(InvalidInput):
        broker_roles([queue])


# --------------------------------------------------------------------------- the verb


def test_passwords_are_written_once_for_their_owner_only_and_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "passwords"
    first = CliRunner().invoke(main, ["acl", "--prefix", "shop-", "--secrets", str(folder)])
    assert first.exit_code == 0, first.output
    assert folder.stat().st_mode & 0o077 == 0
    lines = first.stdout.splitlines()
    assert lines[0] == "user default reset off -@all"
    assert [line.split()[1] for line in lines[1:]] == [f"shop-{role.name}" for role in ROLES]
    for line in lines[1:]:
        path = folder / line.split()[1]
        assert path.stat().st_mode & 0o777 == 0o600
        assert f"#{password_digest(path.read_text().strip())}" in line
        assert path.read_text().strip() not in first.output
    again = CliRunner().invoke(main, ["acl", "--prefix", "shop-", "--secrets", str(folder)])
    assert again.stdout == first.stdout
    (folder / "shop-worker").write_text("a password of my own\n")
    own = CliRunner().invoke(main, ["acl", "--prefix", "shop-", "--secrets", str(folder)])
    assert password_digest("a password of my own") in own.stdout


@pytest.mark.parametrize(("mode", "text"), [(0o644, "x" * 32), (0o600, "short"), (0o600, "")])
def test_a_password_file_that_is_not_safe_is_refused(tmp_path: Path, mode: int, text: str) -> None:
    (tmp_path / "toolkit-worker").write_text(text)
    (tmp_path / "toolkit-worker").chmod(mode)
    refused = CliRunner().invoke(main, ["acl", "--secrets", str(tmp_path)])
    assert refused.exit_code == 1
    assert "password file" in refused.output
    assert "user default" not in refused.output


def test_new_passwords_are_shown_on_a_terminal_and_nowhere_else() -> None:
    refused = CliRunner().invoke(main, ["acl"])
    assert refused.exit_code == 2
    assert "--secrets" in refused.output
    ours, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-m", "toolkit", "acl"], stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    shown = done.stdout
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # all was read, and the other side is closed
        pass
    os.close(ours)
    text = shown.decode()
    password = re.search(r"toolkit-worker: (\S{43})\b", text)
    assert password
    assert password[1].encode() not in done.stdout
    assert f"#{password_digest(password[1])}".encode() in done.stdout
