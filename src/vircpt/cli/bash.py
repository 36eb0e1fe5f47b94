"""Completion as bash wants it: it splits words at colons, and inserts what it gets unquoted."""

from __future__ import annotations

import os
import re

from click.shell_completion import BashComplete, CompletionItem, split_arg_string


class Bash(BashComplete):
    """click's, for words that bash has split and for names with spaces."""

    def get_completion_args(self) -> tuple[list[str], str]:
        words, at = joined(
            split_arg_string(os.environ["COMP_WORDS"]), int(os.environ["COMP_CWORD"])
        )
        return words[1:at], words[at] if at < len(words) else ""

    def format_completion(self, item: CompletionItem) -> str:
        value = re.sub(r"([^\w@%+=:,./-])", r"\\\1", item.value)
        return f"{item.type},{value}"


def joined(words: list[str], at: int) -> tuple[list[str], int]:
    """The words put together again at colons, and which of them is number `at`."""
    found: list[str] = []
    where = at
    glue = False
    for index, word in enumerate(words):
        is_colon = bool(word) and not word.strip(":")
        if found and (is_colon or glue):
            found[-1] += word
            if index <= at:
                where -= 1
        else:
            found.append(word)
        glue = is_colon and index != at
    return found, where
