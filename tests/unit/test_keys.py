"""Who is let in: plain and hashed keys from a file, and nobody by accident."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.api.errors import ApiError
from engine.api.keys import Keys, hashed, main, read_keys
from engine.errors import ConfigError


def _lets_in(keys: Keys, authorization: str) -> bool:
    try:
        keys.check(authorization)
    except ApiError as error:
        return error.status != 401
    return True


def test_plain_and_hashed_lines_open_the_same_door(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# Ann\nplain-key\n\n# Bert\n{hashed('hashed-key')}\n")
    keys = read_keys(str(path))
    assert _lets_in(keys, "Bearer plain-key")
    assert _lets_in(keys, "bearer  hashed-key")
    for wrong in ("", "plain-key", "Basic plain-key", "Bearer", "Bearer x", "Bearer hashed-keys"):
        assert not _lets_in(keys, wrong)
    assert not _lets_in(keys, f"Bearer {hashed('hashed-key')}")


def test_keys_are_kept_only_as_hashes() -> None:
    assert "plain-key" not in repr(vars(Keys(("plain-key",))))


def test_a_key_with_letters_of_any_language_opens_the_door() -> None:
    assert _lets_in(Keys(("schlüssel",)), "Bearer " + "schlüssel".encode().decode("latin-1"))


@pytest.mark.parametrize("text", ["", "# only a comment\n", "sha256:abc\n", "sha256:" + "g" * 64])
def test_a_file_without_usable_keys_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ConfigError, match="--api-key-file"):
        read_keys(str(path))


def test_the_command_makes_a_key_and_the_line_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main() == 0
    _, key, _, line = capsys.readouterr().out.splitlines()
    assert key not in line
    (tmp_path / "keys").write_text(line)
    assert _lets_in(read_keys(str(tmp_path / "keys")), f"Bearer {key}")
