"""Settings: read once, from the environment alone, and never telling a secret."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from toolkit.errors import InvalidInput
from toolkit.settings import (
    LedgerSettings,
    ServerAddress,
    Settings,
    default_state_dir,
    redact_url,
    url_with_password,
)

# --------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "bare", "username", "password"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0", None, None),
        ("redis://:pw@localhost", "redis://localhost", None, "pw"),
        ("redis://me:pw@h:1/2", "redis://h:1/2", "me", "pw"),
        ("redis://me@h/2", "redis://h/2", "me", None),
        ("valkey://me:pw@h", "redis://h", "me", "pw"),
        ("valkeys://h:7/0?ssl_ca_certs=/c.pem", "rediss://h:7/0?ssl_ca_certs=/c.pem", None, None),
        ("rediss://:p%40s%2Fs@h", "rediss://h", None, "p@s/s"),
        ("redis://:p@ss@h", "redis://h", None, "p@ss"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0", None, None),
        ("unix:///run/s.sock", "unix:///run/s.sock", None, None),
        ("unix:///run/s.sock?db=3", "unix:///run/s.sock?db=3", None, None),
        ("unix://:pw@/run/s.sock", "unix:///run/s.sock", None, "pw"),
        ("redis://h:1/?db=2&socket_timeout=2.5", "redis://h:1/?db=2&socket_timeout=2.5", None, None),
    ],
)
def test_a_url_is_split_into_address_and_credentials(
    url: str, bare: str, username: str | None, password: str | None
) -> None:
    address = ServerAddress.parse(url)
    assert (address.url, address.username, address.password) == (bare, username, password)
    assert str(address) == bare
    assert address.read_password() == password


@pytest.mark.parametrize("url", ["http://:hidden@h", "localhost:6379", "", "sentinel://h", "amqp://u:hidden@h//"])
def test_other_schemes_are_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(InvalidInput, match="scheme must be one of redis, rediss, unix, valkey, valkeys") as caught:
        ServerAddress.parse(url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:zebra@h:1/ledger", r"redis://:\*\*\*@h:1/ledger': 'ledger' is no database"),
        ("redis://h/0/1", "'0/1' is no database"),
        ("rediss://:zebra@h/0?ssl_ca_cert=/c.pem", "'ssl_ca_cert' is no option .*; did you mean 'ssl_ca_certs'"),
        ("redis://h/0?token=zebra", "'token' is no option of a connection; there are client_name, db,"),
        ("redis://h/0?socket_timeout=soon", "socket_timeout='soon' is no value"),
        ("unix:///run/s.sock?db=x", "db='x' is no value"),
    ],
)  # fmt: skip
def test_a_database_or_an_option_that_no_server_has_is_refused(url: str, message: str) -> None:
    """It is not taken for database 0, which holds others' runs, and does not fail within a library later."""
    with pytest.raises(InvalidInput, match=message) as caught:
        ServerAddress.parse(url)
    assert "zebra" not in str(caught.value)


secrets = st.text(st.characters(min_codepoint=33, exclude_categories=["Cs"]), min_size=4, max_size=20)


@hypothesis_settings(deadline=None)  # a busy machine is no failure
@given(password=secrets, username=st.none() | secrets)
def test_any_password_goes_through_a_url_and_is_never_shown(password: str, username: str | None) -> None:
    url = f"redis://{quote(username or '', safe='')}:{quote(password, safe='')}@example.org:1/0"
    address = ServerAddress.parse(url)
    assert (address.username, address.password) == (username, password)
    assert address.url == "redis://example.org:1/0"
    assert url_with_password(address) == url
    bare = ServerAddress("redis://example.org:1/0", username)
    assert (repr(address), str(address)) == (repr(bare), str(bare))


def test_an_address_without_credentials_needs_none() -> None:
    assert url_with_password(ServerAddress("redis://h")) == "redis://h"
    assert url_with_password(ServerAddress("redis://h", "me")) == "redis://me:@h"


def test_a_password_file_wins_and_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    address = ServerAddress("unix:///s", password="other", password_file=file)
    assert address.read_password() == "first"
    file.write_text("  second \n")
    assert address.read_password() == "second"
    assert url_with_password(address) == "unix://:second@/s"
    assert "second" not in repr(address)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pw@h/0", "redis://:***@h/0"),
        ("amqp://me:pw@h//", "amqp://me:***@h//"),
        ("redis://:p/w@h", "redis://:***@h"),
        ("redis://me@h", "redis://me@h"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("failed: redis://:pw@h/0 and redis://u:pw@g", "failed: redis://:***@h/0 and redis://u:***@g"),
        ("", ""),
    ],
)
def test_passwords_in_text_are_replaced(url: str, shown: str) -> None:
    assert redact_url(url) == shown


# --------------------------------------------------------------------------- the environment


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({"HOME": "/srv/zoe"})
    assert settings == Settings(state_dir=Path("/srv/zoe/.local/state/batch-analytics-toolkit"))
    assert settings.progress
    assert not settings.disabled


def test_every_setting_is_read() -> None:
    settings = Settings.from_env({
        "TOOLKIT_APP": "pkg:app", "TOOLKIT_LEDGER_URL": "redis://:hidden@h", "TOOLKIT_STATE_DIR": "/s",
        "TOOLKIT_FUNCTION_KEY_FILE": "/k", "TOOLKIT_SERVER_BINARY": "/b", "TOOLKIT_PROGRESS": "0",
        "TOOLKIT_DISABLED": "1", "TOOLKIT_ARCHIVE": "/a", "NO_COLOR": "1",
    })  # fmt: skip
    assert settings == Settings(
        "pkg:app", "redis://:hidden@h", Path("/s"), Path("/k"), "/b", False, True, Path("/a"), False
    )
    assert "hidden" not in f"{settings!r} {settings}"


def test_an_empty_variable_is_as_good_as_none() -> None:
    names = ("APP", "LEDGER_URL", "STATE_DIR", "FUNCTION_KEY_FILE", "SERVER_BINARY", "ARCHIVE")
    home = {"HOME": "/h"}
    assert Settings.from_env({f"TOOLKIT_{name}": "" for name in names} | home) == Settings.from_env(home)


def test_the_state_directory_follows_the_conventions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def state(**env: str) -> Path:
        return Settings.from_env({"HOME": "/h"} | env).state_dir

    assert state(XDG_STATE_HOME="/x") == Path("/x/batch-analytics-toolkit")
    assert state(XDG_STATE_HOME="/x", TOOLKIT_STATE_DIR="/s/t") == Path("/s/t")
    monkeypatch.chdir(tmp_path)
    assert state(TOOLKIT_STATE_DIR="here") == tmp_path / "here"
    monkeypatch.setenv("TOOLKIT_STATE_DIR", str(tmp_path / "mine"))
    assert default_state_dir() == tmp_path / "mine"


def test_the_process_s_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_APP", "mine:app")
    assert Settings.from_env().app == "mine:app"
    assert Settings.from_env({}).app is None


def test_limits_have_units_in_their_names() -> None:
    settings = LedgerSettings()
    assert (settings.lease_s, settings.retry_s, settings.retention_s) == (10.0, 30.0, 7 * 86400.0)
    assert settings.max_item_bytes == settings.max_result_bytes == 16 * 1024 * 1024


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pa/zebra@h/0",
        "redis://:pa?zebra@h/0",
        "redis://:pa#zebra@h/0",
        "redis://h/0?password=zebra",
        "redis://h:zebra/0",
    ],
)
def test_a_url_that_would_show_part_of_a_password_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidInput, match="percent-encode") as caught:
        ServerAddress.parse(url)
    assert "zebra" not in str(caught.value)


def test_redaction_takes_all_of_a_password_with_an_at_sign() -> None:
    assert redact_url("amqp://u:p@ss@h/v") == "amqp://u:***@h/v"
