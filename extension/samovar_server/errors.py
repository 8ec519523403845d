"""Every error a client can see, in the shape of OpenAI's API.

The message always says what to do next and never shows a trace, a token or an internal path.
`body()` is what goes over the wire: `{"error": {"message", "type", "param", "code"}}`
(https://platform.openai.com/docs/guides/error-codes).
"""

from __future__ import annotations

from typing import Any, ClassVar


class SamovarError(Exception):
    """Base of all errors that are answers. Subclasses fix the HTTP status, the type and the code."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        """`param` names the request field at fault; `retry_after` is in seconds (Retry-After)."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer, or of the `data:` event that ends a broken stream."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(SamovarError):
    """A field is missing, malformed, out of range or not supported; `param` names it."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and requested output do not fit into the context window."""

    code = "context_length_exceeded"


class InvalidApiKey(SamovarError):
    """No credentials, or wrong ones."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDenied(SamovarError):
    """The caller is known but not allowed."""

    status = 403
    type = "permission_error"
    code = "permission_denied"


class RouteNotFound(SamovarError):
    """No such route below /v1."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(SamovarError):
    """The route exists, but not with this HTTP method; the message names those it has."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class ModelNotFound(SamovarError):
    """The reference names no model on this machine."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class DownloadNotFound(SamovarError):
    """There is no download of this id."""

    status = 404
    type = "invalid_request_error"
    code = "download_not_found"


class HubUnavailable(SamovarError):
    """The Hugging Face Hub cannot be asked from here, or refuses."""

    status = 503
    type = "server_error"
    code = "hub_unavailable"


class Conflict(SamovarError):
    """The request contradicts what is going on (for instance: delete a resident model)."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class TooLarge(SamovarError):
    """The request body is larger than the server accepts."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class QueueFull(SamovarError):
    """More requests wait than the queue holds; try again after `retry_after` seconds."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class QuotaExceeded(SamovarError):
    """The caller has had what he may have; there is more after `retry_after` seconds."""

    status = 429
    type = "rate_limit_error"
    code = "quota_exceeded"


class LoadFailed(SamovarError):
    """The model could not be brought into memory; the message holds the real cause."""

    status = 500
    type = "server_error"
    code = "model_load_failed"


class ModelCrashed(SamovarError):
    """The worker process that held the model ended in the middle of the request."""

    status = 502
    type = "server_error"
    code = "model_crashed"


class UpstreamFailed(SamovarError):
    """An engine or a server that samovar asked did not answer as it should, or not at all."""

    status = 502
    type = "server_error"
    code = "upstream_failed"


class UpstreamTimeout(SamovarError):
    """A server that samovar asked was silent for too long."""

    status = 504
    type = "server_error"
    code = "upstream_timeout"


class ModelUnloaded(SamovarError):
    """Somebody unloaded the model with mode=now while the request ran."""

    status = 503
    type = "server_error"
    code = "model_unloaded"


class BackendUnavailable(SamovarError):
    """What the request needs is not installed here; the message says which extra to install."""

    status = 503
    type = "server_error"
    code = "backend_unavailable"


class ServiceUnavailable(SamovarError):
    """JupyterHub, or the service that a user's own server forwards to, does not answer now."""

    status = 503
    type = "server_error"
    code = "service_unavailable"


class InsufficientMemory(SamovarError):
    """The model does not fit and nothing idle can make room."""

    status = 507
    type = "server_error"
    code = "insufficient_memory"
