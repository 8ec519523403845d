"""What a user may write for a repo: its name, or the address of its page."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

from samovar_server.errors import InvalidRequest

HUB_HOSTS = frozenset({"huggingface.co", "hf.co"})


def name_in(url: str) -> tuple[str, str | None]:
    """(reference, revision) in `url`: a page's address, or anything else as it is.

    Raises InvalidRequest for the address of another site or of no model.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url, None
    ours = {urlsplit(constants.ENDPOINT).netloc, *HUB_HOSTS}
    path = [unquote(part) for part in parts.path.strip("/").split("/")]
    if parts.netloc not in ours or len(path) < 2 or path[0] in ("datasets", "spaces"):
        raise InvalidRequest(
            f"url: this is no model's page on {constants.ENDPOINT}; write its name, such as org/name.",
            param="url",
        )
    has_revision = len(path) >= 4 and path[2] in ("tree", "blob", "resolve")
    return "/".join(path[:2]), path[3] if has_revision else None
