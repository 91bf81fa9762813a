"""What can go wrong, in the few words everybody here shares. The gateway has one table from these to HTTP."""


class RejoinError(Exception):
    """Base of all of them. The text is for the person who reads it: no stack, no host, no secret."""


class Invalid(RejoinError):
    """The input is wrong. `pointer` is the JSON pointer of the place, where there is one."""

    def __init__(self, detail: str, pointer: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class Unauthenticated(RejoinError):
    """Nobody knows who asks."""


class Forbidden(RejoinError):
    """It is known who asks, and that one may not."""


class NotFound(RejoinError):
    """There is no such thing, or it is somebody else's."""


class Conflict(RejoinError):
    """It contradicts what is already decided or stored."""


class Gone(RejoinError):
    """It was there, and is past retention."""


class Limited(RejoinError):
    """Too much at once, or in too short a time. Try again in `retry_after_s`."""

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Unavailable(RejoinError):
    """The broker or the database is away. Nothing is lost; try again in `retry_after_s`."""

    def __init__(self, detail: str, retry_after_s: int = 2) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Fenced(RejoinError):
    """Another runner owns the run now. Stop silently and touch nothing."""
