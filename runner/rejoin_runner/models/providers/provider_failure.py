"""Classifies the failures of a provider: the text for users, and whether a retry may help.

The libraries' own texts name hosts, keys and classes, so users get texts from here.
"""

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
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
_BROKEN = "the model provider's answer broke off or cannot be read"
_STATUS_END = 600
_QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "credit_balance_exhausted",
        "exceeded_current_quota_error",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_spend_limit_exceeded",
    }
)
_CONTEXT_CODES = frozenset({"context_length_exceeded", "string_above_max_length"})
_CONTEXT_TEXTS = ("maximum context length", "reduce the length of the messages")
_FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "responsibleaipolicyviolation"})
_STATUSES = {
    "rate_limit_exceeded": HTTPStatus.TOO_MANY_REQUESTS,
    "rate_limit_error": HTTPStatus.TOO_MANY_REQUESTS,
    "too_many_requests": HTTPStatus.TOO_MANY_REQUESTS,
    "context_length_exceeded": HTTPStatus.BAD_REQUEST,
    "invalid_request_error": HTTPStatus.BAD_REQUEST,
    "content_filter": HTTPStatus.BAD_REQUEST,
    "overloaded": HTTPStatus.SERVICE_UNAVAILABLE,
    **dict.fromkeys(_QUOTA_CODES, HTTPStatus.TOO_MANY_REQUESTS),
}
"""The status of an error that a provider reports within its answer."""


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


def status_failure(status: int, error: object, headers: Mapping[str, str]) -> ProviderFailure:
    """The failure for a response that is no answer. `error` is what its body says."""
    code, text = _code(error), str(error).lower()
    transient = status in _TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if status == HTTPStatus.PAYMENT_REQUIRED or code in _QUOTA_CODES:
        detail, transient = "the model provider's quota is used up", False
    elif code in _CONTEXT_CODES or any(words in text for words in _CONTEXT_TEXTS):
        detail, transient = "the conversation is too long for the model", False
    elif code in _FILTER_CODES:
        detail, transient = "the model provider does not answer this", False
    else:
        detail = f"the model provider answered {_status(status)}"
    return ProviderFailure(
        detail,
        retryable=transient,
        wait_s=_retry_after_s(headers),
        reasoning_refused=status == HTTPStatus.BAD_REQUEST and _names_reasoning(text),
        files_suspected=_suspects_files(status, text),
    )


def reported_failure(error: object, *, begun: bool) -> ProviderFailure:
    """The failure that a provider reports within its answer."""
    code = _code(error)
    status = int(code) if code.isdigit() else _STATUSES.get(code, HTTPStatus.INTERNAL_SERVER_ERROR)
    if not HTTPStatus.BAD_REQUEST <= status < _STATUS_END:
        status = HTTPStatus.INTERNAL_SERVER_ERROR
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        failure = ProviderFailure("the model provider failed", retryable=True)
    else:
        failure = status_failure(status, error, {})
    return ProviderFailure(failure.detail, retryable=failure.retryable and not begun)


def broken_answer(*, begun: bool) -> ProviderFailure:
    """The failure for an answer that ends without saying so, or that nobody can read."""
    return ProviderFailure(_BROKEN, retryable=not begun)


def _code(error: object) -> str:
    """The provider's word for an error: its code, else its type."""
    if not isinstance(error, dict):
        return ""
    code = error.get("code")
    return str(code if code is not None else error.get("type") or "")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait: in milliseconds, in seconds, or until a date."""
    try:
        if (said := headers.get("retry-after-ms")) is not None:
            wait_s = float(said) / 1000
        elif (said := headers.get("retry-after")) is None:
            return None
        elif said.replace(".", "", 1).isdigit():
            wait_s = float(said)
        else:
            wait_s = parsedate_to_datetime(said).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return max(0.0, wait_s) if math.isfinite(wait_s) else None


def classify_failure(fault: Exception, *, begun: bool) -> ProviderFailure:
    """The failure for an exception of the library. `begun`: some of the answer has arrived."""
    if isinstance(fault, ProviderFailure):
        return fault
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
        case exceptions.UnexpectedModelBehavior():  # nothing says that the answer is complete
            detail, transient = _BROKEN, True
        case _:
            detail = _BROKEN
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
    return _names_reasoning(str(fault.body).lower())


def _names_reasoning(text: str) -> bool:
    return any(refused in text for refused in _REASONING_REFUSED_TEXTS)


def _may_refuse_files(fault: Exception) -> bool:
    """Whether the request might be taken without its files. Providers word this in many ways."""
    match fault:
        case exceptions.ModelHTTPError(status_code=status):
            return _suspects_files(status, str(fault.body))
        case exceptions.ModelAPIError():
            return False
        case (
            exceptions.UserError() | NotImplementedError() | ValueError() | AssertionError() | RuntimeError()
        ):
            return True  # the library cannot write the file in the provider's form
        case _:
            return False


def _suspects_files(status: int, text: str) -> bool:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _FILE_WORDS.search(text) is not None
    return status in _REFUSED


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
