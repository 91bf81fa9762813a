"""Classifies the failures of a provider: the text for users, and whether a retry may help.

The libraries' own texts name hosts, keys and classes, so users get texts from here.
"""

import re
from http import HTTPStatus

from pydantic_ai import exceptions

from rejoin_runner.models.model import ModelError

_TRANSIENT = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)
_REFUSED = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""Statuses of a request that may be taken without its files."""
_FILE_WORDS = re.compile(r"image|vision|multimodal|mmproj|audio|video|attachment|pdf|document", re.IGNORECASE)
_REASONING_REFUSED_TEXTS = ("encrypted content", "encrypted_content", "invalid `signature`", "invalid `data`")


class ProviderFailure(ModelError):
    """A provider's failure, and what can be done about it."""

    def __init__(
        self,
        detail: str,
        *,
        retryable: bool,
        wait_s: float | None = None,
        reasoning_refused: bool = False,
        files_suspected: bool = False,
    ) -> None:
        super().__init__(detail, retryable=retryable)
        self.wait_s = wait_s
        self.reasoning_refused = reasoning_refused
        self.files_suspected = files_suspected


def classify_failure(fault: Exception, *, begun: bool) -> ProviderFailure:
    """The failure for an exception of the library. `begun`: some of the answer has arrived."""
    transient = False
    match fault:
        case exceptions.ModelContextWindowExceededError():
            detail = "the conversation is too long for the model"
        case exceptions.ModelQuotaExceededError():
            detail = "the model provider's quota is used up"
        case exceptions.ModelHTTPError(status_code=status):
            detail = f"the model provider answered {_status(status)}"
            transient = status in _TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        case exceptions.ModelRequestTimeout() | TimeoutError():
            detail, transient = "the model did not finish in time", True
        case exceptions.ModelTimeoutError():
            detail, transient = "the model provider fell silent", True
        case exceptions.ModelConnectionError():
            detail = f"the connection to the model provider {'broke' if begun else 'failed'}"
            transient = True
        case exceptions.ModelServerError() | exceptions.ModelUnavailableError():
            detail, transient = "the model provider failed", True
        case exceptions.ContentFilterError():
            detail = "the model provider does not answer this"
        case exceptions.UserError() | NotImplementedError():
            detail = "the model does not take what this conversation holds"
        case _:
            detail = "the model provider's answer broke off or cannot be read"
    return ProviderFailure(
        detail,
        retryable=transient and not begun,
        wait_s=fault.retry_after if isinstance(fault, exceptions.ModelAPIError) else None,
        reasoning_refused=_refuses_reasoning(fault),
        files_suspected=not begun and _may_refuse_files(fault),
    )


def _refuses_reasoning(fault: Exception) -> bool:
    """Whether a provider rejects the signed reasoning in the request.

    Reasoning is bound to an account: with a new key, or the key of another tenant, it cannot be read.
    """
    if not isinstance(fault, exceptions.ModelHTTPError) or fault.status_code != HTTPStatus.BAD_REQUEST:
        return False
    body = str(fault.body).lower()
    return any(text in body for text in _REASONING_REFUSED_TEXTS)


def _may_refuse_files(fault: Exception) -> bool:
    """Whether the request might be taken without its files. Providers word this in many ways."""
    match fault:
        case exceptions.ModelHTTPError(status_code=status) if status in _REFUSED:
            return True
        case exceptions.ModelHTTPError(status_code=status) if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _FILE_WORDS.search(str(fault.body)) is not None
        case exceptions.ModelAPIError():
            return False
        case (
            exceptions.UserError() | NotImplementedError() | ValueError() | AssertionError() | RuntimeError()
        ):
            return True  # the library cannot write the file in the provider's form
        case _:
            return False


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
