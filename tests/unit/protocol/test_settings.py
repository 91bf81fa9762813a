"""Settings: the precedence of sources, and the errors for invalid values."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from rejoin_protocol.errors import Invalid
from rejoin_protocol.settings import load


class Settings(msgspec.Struct, frozen=True):
    nats_url: str
    port: int = 8080
    grace_s: float = 10.0
    model: str | None = None


def loaded(
    variables: Mapping[str, str],
    *,
    files: Mapping[str, str] | None = None,
    toml: Mapping[str, Any] | None = None,
) -> Settings:
    def read(path: str) -> str:
        if files is None or path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path]

    return load(Settings, variables, read=read, toml=toml)


def test_a_variable_wins_over_a_file_over_toml_over_the_default() -> None:
    toml = {"nats_url": "toml", "port": 1, "unknown": 7}
    file = {"REJOIN_NATS_URL_FILE": "/f"}
    variable = {"REJOIN_NATS_URL": "variable"}
    files = {"/f": "file\n"}
    assert loaded({}, toml=toml) == Settings("toml", 1)
    assert loaded(file, files=files, toml=toml).nats_url == "file"
    assert loaded(file | variable, files=files, toml=toml).nats_url == "variable"
    assert loaded(variable) == Settings("variable", 8080, 10.0, None)


def test_text_becomes_what_the_setting_is() -> None:
    found = loaded(
        {"REJOIN_NATS_URL": "n", "REJOIN_PORT": "80", "REJOIN_GRACE_S": "0.5", "REJOIN_MODEL": "m"}
    )
    assert found == Settings("n", 80, 0.5, "m")


def test_other_variables_are_nobodys_business() -> None:
    assert loaded({"REJOIN_NATS_URL": "n", "PORT": "x", "REJOIN_OTHER": "y"}) == Settings("n")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(Invalid, match="REJOIN_NATS_URL is not set"):
        loaded({})


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(Invalid, match="port"):
        loaded({"REJOIN_NATS_URL": "n", "REJOIN_PORT": "many"})
    with pytest.raises(Invalid, match="grace_s"):
        loaded({"REJOIN_NATS_URL": "n"}, toml={"grace_s": []})


def test_a_file_that_cannot_be_read_is_named_by_its_variable() -> None:
    with pytest.raises(Invalid, match=r"REJOIN_MODEL_FILE names a file .*No such file") as refused:
        loaded({"REJOIN_NATS_URL": "n", "REJOIN_MODEL_FILE": "/secret"})
    assert "/secret" not in str(refused.value)
