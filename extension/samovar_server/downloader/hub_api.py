"""What the Hugging Face Hub says of a repo, by its own client: files, commit, who may read it.

The client takes HF_ENDPOINT, HF_TOKEN (or the token of `hf auth login`), proxies and HF_HUB_OFFLINE from
the environment, as every other tool does. The token is in no message and in no record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from samovar_server.downloader.failures import PullFailed, SourceUnavailable
from samovar_server.downloader.plan import Repo, RepoFile
from samovar_server.downloader.retry import RETRIED_STATUSES, Backoff, asked_pause

NetworkError: type[Exception] = HfHubHTTPError.__mro__[1]
"""The root of the errors of the HTTP library, which is httpx or httpx2, as the Hub's client has it."""

ANSWER_SECONDS = 10.0
"""How long the Hub may take to answer a question, as huggingface_hub has it: some lists of files are long."""

BACKOFF = Backoff(attempts=4, longest_asked=30.0)

SILENT_ATTEMPTS = 2
"""How often a Hub that does not answer is asked: the demo model has another source to go on with."""

T = TypeVar("T")


def describe(name: str, revision: str | None) -> Repo:
    """What the Hub has under `name` at `revision` (its main branch by default).

    Raises SourceUnavailable when the Hub cannot be reached, PullFailed when it has no such model or does
    not let this user read it.
    """
    revision = revision or constants.DEFAULT_REVISION
    with explained(name, revision):
        api = HfApi()
        info = _patiently(
            lambda: api.model_info(name, revision=revision, timeout=ANSWER_SECONDS, files_metadata=True)
        )
        if info.gated:  # its list of files is open to all, the files are not
            _patiently(lambda: api.auth_check(name))
    assert info.sha is not None, "the Hub answers with the commit it looked at"
    return Repo(
        name=name,
        revision=revision,
        commit=info.sha,
        files=tuple(_file(sibling) for sibling in info.siblings or []),
        gated=bool(info.gated),
        license=info.card_data.license if info.card_data is not None else None,
    )


def search(text: str, limit: int) -> list[ModelInfo]:
    """Models whose names contain `text`, most downloaded first. Raises SourceUnavailable, PullFailed."""
    with explained("models", constants.DEFAULT_REVISION):
        found = HfApi().list_models(
            search=text,
            limit=limit,
            sort="downloads",
            expand=["downloads", "gated", "gguf", "likes", "safetensors"],
        )
        return list(found)


def link(name: str, path: str, commit: str) -> None:
    """Let huggingface_hub link a file whose blob is here into the snapshot; it asks the Hub once more.

    After hours of fetching that question must not fail for a Hub that is busy for a moment.
    """
    with explained(name, commit):
        _patiently(lambda: hf_hub_download(name, path, revision=commit))


@contextmanager
def explained(repo: str, revision: str) -> Iterator[None]:
    """Turn what the Hub's client raises into sentences."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise SourceUnavailable(
            "hub_offline",
            f"HF_HUB_OFFLINE keeps samovar from asking the Hugging Face Hub for {repo}: "
            "unset it, or copy the model's folder into a model folder.",
        ) from error
    except GatedRepoError as error:
        raise refusal(repo, 403, "GatedRepo") from error
    except RepositoryNotFoundError as error:
        raise refusal(repo, 404, "RepoNotFound") from error
    except RevisionNotFoundError as error:
        raise PullFailed(
            "revision_not_found", f"{repo} has no revision {revision}: check the branch, tag or commit."
        ) from error
    except HfHubHTTPError as error:
        raise refusal(repo, error.response.status_code, None) from error
    except (NetworkError, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise unreachable(repo) from error


def refusal(repo: str, status: int, error_code: str | None) -> PullFailed:
    """What it means that the Hub answers `status` (and its X-Error-Code) for a file or page of `repo`."""
    page = f"{constants.ENDPOINT}/{repo}"
    if error_code == "GatedRepo":
        then = (
            "then pull again with the token of that account, which HF_TOKEN now holds"
            if get_token()
            else f"create a token at {constants.ENDPOINT}/settings/tokens and set HF_TOKEN to it"
        )
        return PullFailed("gated", f"{repo} is gated: accept its terms at {page}, {then}.")
    if error_code == "RepoNotFound":
        hint = (
            "the account of HF_TOKEN may not read it"
            if get_token()
            else "it is private: then set HF_TOKEN to a token that may read it"
        )
        return PullFailed("repo_not_found", f"The Hub has no model {repo}, or {hint}. Check the name.")
    if status in (401, 403):
        return PullFailed(
            "unauthorized",
            f"The Hub refuses {repo} to this token ({status}): set HF_TOKEN to one that may read it.",
        )
    if status == 404:
        return PullFailed(
            "file_vanished",
            f"A file of {repo} is not on the Hub any more: start the download anew, for the latest revision.",
        )
    return SourceUnavailable(
        "hub_error", f"The Hub answered {status} for {repo}: try again in a few minutes."
    )


def unreachable(repo: str) -> SourceUnavailable:
    """No answer, or one that broke off again and again."""
    return SourceUnavailable(
        "hub_unreachable",
        f"The Hugging Face Hub cannot be reached for {repo}: check the network and its proxy, "
        "or copy the model's folder into a model folder.",
    )


def _patiently(ask: Callable[[], T]) -> T:
    """What `ask` gives, asked again while the Hub is busy or in trouble; once more if it does not answer."""
    failures = 0
    while True:
        try:
            return ask()
        except (NetworkError, LocalEntryNotFoundError) as error:
            failures += 1
            cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
            response = cause.response if isinstance(cause, HfHubHTTPError) else None
            most = SILENT_ATTEMPTS if response is None else BACKOFF.attempts
            is_refused = response is not None and response.status_code not in RETRIED_STATUSES
            if is_refused or failures >= most:
                raise
            asked = None if response is None else asked_pause(response.headers, datetime.now(UTC))
            time.sleep(BACKOFF.delay(failures, asked))


def _file(sibling: RepoSibling) -> RepoFile:
    digest = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
    if digest is None or sibling.size is None:
        raise PullFailed("no_metadata", "The Hub does not tell the sizes of this repo's files: try again.")
    return RepoFile(sibling.rfilename, sibling.size, digest)
