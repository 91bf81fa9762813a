"""The errors of all packages. The gateway maps them to HTTP status codes in one table."""


class RejoinError(Exception):
    """Base class. The text is shown to users: no stack trace, no host name, no secret."""


class Invalid(RejoinError):
    """The input is invalid. `pointer`: JSON pointer to the invalid value, or empty."""

    def __init__(self, detail: str, pointer: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class Unauthenticated(RejoinError):
    """The credential is missing or invalid."""


class Forbidden(RejoinError):
    """The caller is known and not allowed to do this."""


class NotFound(RejoinError):
    """The object does not exist, or belongs to another user or tenant. `code`: what is missing, for
    programs.
    """

    def __init__(self, detail: str, code: str = "not_found") -> None:
        super().__init__(detail)
        self.code = code


class Conflict(RejoinError):
    """The request contradicts stored data or an earlier decision."""


class Busy(Conflict):
    """Runs of the session that nobody has interrupted are in the way."""


class Gone(RejoinError):
    """The object existed, and its retention has passed."""


class Limited(RejoinError):
    """A limit is reached. Retry after `retry_after_s`."""

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Unavailable(RejoinError):
    """The broker or the database cannot be reached. Nothing is lost; retry after `retry_after_s`."""

    def __init__(self, detail: str, retry_after_s: int = 2) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Fenced(RejoinError):
    """Another runner owns the run. The caller stops without a further write."""
