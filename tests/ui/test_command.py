"""A command over several lines is the same command."""

from __future__ import annotations

import shlex

from panel.ui.command import in_lines

LINE = "autoglm launch '/models/my own' --name 'a --b' --precision bfloat16 --context 4096"


def test_the_shell_reads_the_same_words() -> None:
    assert shlex.split(in_lines(LINE, 30).replace("\\\n", "")) == shlex.split(LINE)


def test_an_option_stays_beside_its_value() -> None:
    assert "  --precision bfloat16 \\\n" in in_lines(LINE, 30)


def test_a_short_command_stays_in_one_line() -> None:
    assert in_lines("autoglm launch demo") == "autoglm launch demo"
