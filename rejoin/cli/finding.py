"""What one check of `rejoin doctor` found."""

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """`ERROR`: something does not work. `NOTE`: it works, and could be safer or more useful."""

    OK = "ok"
    NOTE = "note"
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True):
    """The result of one check. `remedy`: what to do about it; empty if nothing is to be done."""

    severity: Severity
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.severity:6} {self.text}" + (f"\n       → {self.remedy}" if self.remedy else "")


def ok(text: str) -> Finding:
    """A check that passed."""
    return Finding(Severity.OK, text)


def note(text: str, remedy: str) -> Finding:
    """A recommendation."""
    return Finding(Severity.NOTE, text, remedy)


def error(text: str, remedy: str) -> Finding:
    """A check that failed."""
    return Finding(Severity.ERROR, text, remedy)
