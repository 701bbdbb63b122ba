from __future__ import annotations

import dataclasses
import re

import pytest

from service.settings import SettingError, Settings, declared, read_settings, unknown, variable
from tests.support import ROOT

NAMES = [variable(field) for field in declared()]

WRONG = [
    ("STORE", "sqlite"),
    ("STORE", "sqlite://"),
    ("STORE", "sqlite:///"),
    ("STORE", "postgres://host/db"),
    ("STORE", "cassandra:///busyapi"),
    ("STORE", "cassandra://,/busyapi"),
    ("STORE", "cassandra://host"),
    ("STORE", "cassandra://host/"),
    ("STORE", "cassandra://host/Has-Dash"),
    ("STORE", "cassandra://host/a;DROP"),
    ("STORE", "cassandra://host/" + "x" * 49),
    ("STORE", "cassandra://host:port/busyapi"),
    ("STORE", "cassandra://host:0/busyapi"),
    ("STORE", "cassandra://host:65536/busyapi"),
    ("STORE", "cassandra://:9042/busyapi"),
    ("LISTEN_PORT", "-1"),
    ("LISTEN_PORT", "65536"),
    ("LISTEN_PORT", "http"),
    ("LISTEN_PORT", "80.5"),
    ("WORKERS", "0"),
    ("USAGE_BYTES_MAX", "100kb"),
    ("MESSAGE_CACHE_CONTROL", "no-cache\r\nX: y"),
    ("MESSAGE_CACHE_CONTROL", "überhaupt"),
    ("QUEUE_WAIT_MAX_S", "nan"),
    ("QUEUE_WAIT_MAX_S", "inf"),
    ("QUEUE_WAIT_MAX_S", "1s"),
    ("DRAIN_DELAY_S", "-0.1"),
    ("LOG_FORMAT", "xml"),
    ("LOG_LEVEL", "INFO"),
]


def test_the_defaults_parse():
    """An empty environment is a working one: SQLite in ./data, on loopback."""
    settings = read_settings({})
    assert str(settings.store) == "sqlite:///./data/busyapi.sqlite3"
    assert settings.listen_host == "127.0.0.1"
    assert settings.usage_bytes_max == 102_400
    assert settings.message_bytes_max == 1 << 20
    assert settings.cors_origins == ()


def test_settings_are_frozen():
    """Read once; nothing changes them while the service runs."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        read_settings({}).workers = 2  # type: ignore[misc]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_one_line_that_names_its_variable(name: str, value: str):
    """The operator sees which variable to mend, and what was there."""
    with pytest.raises(SettingError) as caught:
        read_settings({f"BUSYAPI_{name}": value})
    text = str(caught.value)
    assert text.startswith(f"BUSYAPI_{name} ")
    assert len(text.splitlines()) == 1


def bounds() -> list[tuple[str, str, str]]:
    """Each bounded setting with its bounds, as README's table has them."""
    rows = [row for row in readme_rows("BUSYAPI_") if "–" in row[2]]
    return [(row[0], *re.fullmatch(r"\w+ ([\d.]+)–([\d.]+)", row[2]).groups()) for row in rows]  # type: ignore[union-attr]


def readme_rows(prefix: str) -> list[list[str]]:
    """The cells of README's table rows whose first cell is a name with this prefix."""
    lines = (ROOT / "README.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith(f"| `{prefix}")
    ]
    return [[row[0].strip("`"), *row[1:]] for row in rows]


@pytest.mark.parametrize(("name", "low", "high"), bounds())
def test_the_bounds_in_the_readme_are_the_codes(name: str, low: str, high: str):
    """Both bounds are taken, and nothing beyond them."""
    field = next(field for field in declared() if variable(field) == name)
    for value in (low, high):
        assert getattr(read_settings({name: value}), field.name) == float(value)
    step = 1 if isinstance(field.metadata["parse"](low), int) else 0.001
    for value in (f"{float(low) - step:g}", str(int(high) + 1)):
        with pytest.raises(SettingError):
            read_settings({name: value})


def test_the_readme_lists_every_setting_with_its_default_and_nothing_else():
    """The table is the settings: same order, same defaults, same units, same meanings."""
    documented = [(row[0], row[1].strip("`"), row[2].split()[0], row[3].lower()) for row in readme_rows("BUSYAPI_")]
    declared_rows = [
        (variable(field), field.metadata["default"] or "empty", field.metadata["unit"], field.metadata["what"].lower())
        for field in declared()
    ]
    assert documented == declared_rows


def test_every_number_has_its_bounds_in_the_readme():
    """Nothing is without bounds, and the bounds are no secret."""
    numbers = {variable(f) for f in declared() if isinstance(f.metadata["parse"](f.metadata["default"]), (int, float))}
    assert {name for name, _, _ in bounds()} == numbers


def test_every_unit_in_a_name_is_the_unit_of_the_table():
    """`_s` is seconds and `_bytes_` is bytes: a name does not lie about its unit."""
    for field in declared():
        assert field.name.endswith("_s") == (field.metadata["unit"] == "seconds")
        assert ("_bytes_" in field.name) == (field.metadata["unit"] == "bytes")


@pytest.mark.parametrize(
    ("url", "hosts", "keyspace"),
    [
        ("cassandra://db/busyapi", (("db", 9042),), "busyapi"),
        ("cassandra://10.0.0.1:9043,10.0.0.2/k_1", (("10.0.0.1", 9043), ("10.0.0.2", 9042)), "k_1"),
    ],
)
def test_cassandra_is_named_by_its_hosts_and_keyspace(url: str, hosts: tuple[tuple[str, int], ...], keyspace: str):
    """Ports are optional; what it prints can be read again."""
    store = read_settings({"BUSYAPI_STORE": url}).store
    assert (store.scheme, store.hosts, store.keyspace) == ("cassandra", hosts, keyspace)
    assert read_settings({"BUSYAPI_STORE": str(store)}).store == store


def test_a_sqlite_path_may_be_relative_absolute_and_percent_encoded():
    """Three slashes are relative, four absolute, as in other URLs of this kind."""
    path = {url: read_settings({"BUSYAPI_STORE": url}).store.path for url in ("sqlite:///a/b", "sqlite:////a/b%20c")}
    assert path == {"sqlite:///a/b": "a/b", "sqlite:////a/b%20c": "/a/b c"}


def test_a_variable_that_is_set_but_empty_counts_as_not_set():
    """Compose files pass on what the shell does not have."""
    assert read_settings(dict.fromkeys(NAMES, " ")) == read_settings({})


def test_origins_are_a_list_with_commas():
    """White space and empty parts do not matter."""
    settings = read_settings({"BUSYAPI_CORS_ORIGINS": "https://a.example, https://b.example,"})
    assert settings.cors_origins == ("https://a.example", "https://b.example")


def test_a_password_is_never_shown(monkeypatch: pytest.MonkeyPatch):
    """Neither in the settings' repr nor in the line about a wrong value."""
    assert "hunter2" not in repr(read_settings({"BUSYAPI_CASSANDRA_PASSWORD": "hunter2"}))
    field = next(field for field in declared() if field.metadata["secret"])

    def refuse(_: str) -> str:
        raise ValueError("is wrong")

    monkeypatch.setattr(field, "metadata", {**field.metadata, "parse": refuse})
    with pytest.raises(SettingError) as caught:
        read_settings({variable(field): "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_variables_with_our_prefix_that_are_no_setting_are_found():
    """A misspelt name is noticed, others' variables are not."""
    environ = {"BUSYAPI_WORKER": "2", "BUSYAPI_WORKERS": "2", "PATH": "/bin", "BUSYAPI_": ""}
    assert unknown(environ) == ["BUSYAPI_", "BUSYAPI_WORKER"]


def test_every_setting_is_used_somewhere():
    """A setting that nothing reads is a promise that nothing keeps."""
    code = "\n".join(path.read_text() for path in (ROOT / "service").rglob("*.py") if path.name != "settings.py")
    assert [field.name for field in dataclasses.fields(Settings) if not re.search(rf"\.{field.name}\b", code)] == []
