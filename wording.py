"""Counts in words: a number and its noun agree, in every message and table."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 passage`, `2,500 passages`, `0 queries`: the count with thousands separators, and its noun to match.

    `plural` is for nouns that do not follow the rule.
    """
    return f"{count:,} {noun if count == 1 else plural or plural_of(noun)}"


def plural_of(noun: str) -> str:
    """The plural of a noun phrase that ends in its noun: `query` -> `queries`, `damaged place` -> `damaged places`."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "z", "ch", "sh")) else f"{noun}s"


def singular_of(nouns: str) -> str:
    """The reverse of `plural_of`; a unit without a plural, such as MB, stays."""
    if nouns.endswith("ies"):
        return f"{nouns[:-3]}y"
    if nouns.endswith(("ses", "xes", "zes", "ches", "shes")):
        return nouns[:-2]
    return nouns.removesuffix("s")
