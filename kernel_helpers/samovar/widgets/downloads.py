"""Downloads with bars, and beginning, cancelling and resuming them."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets

from samovar.progress import size
from samovar.records import OPEN, Event, RepoCheck
from samovar.session import Session, current_session
from samovar.widgets import html
from samovar.widgets.panel import Panel
from samovar.widgets.parts import FIRST, Rows, button, growing, row
from samovar.widgets.transfers import DownloadRow, TransferState


class Downloads(Panel):
    """Models on their way to the server's disk: how far, how fast, how long; cancel and resume.

        samovar.widgets.Downloads()

    "Check" says what a download would bring, or what stands in its way.
    """

    title = "Downloads"
    listens = True

    def __init__(self, connect: Callable[[], Session] = current_session) -> None:
        self.state = TransferState()
        self.repo = growing(
            ipywidgets.Text(
                description="Model",
                placeholder="org/name, or the address of its page on the Hub",
                continuous_update=False,
                style=FIRST,
            )
        )
        self.answer = ipywidgets.HTML()
        self._checked = ""
        self.rows = Rows(lambda key: _Row(self, key))
        entry = row(
            self.repo,
            button("Check", "Say what a download of this model would bring", self._check),
            button("Download", "Bring this model to the server's disk", self._download),
        )
        super().__init__([entry, self.answer, self.rows.box], connect)

    def heard(self, session: Session, event: Event) -> None:
        """Take in an event; ask for everything where some may have been missed."""
        if event.kind not in {OPEN, "missed"}:
            with self.guard:
                self.state.apply(event)
            return
        downloads = session.downloads()
        with self.guard:
            self.state.reset(downloads)

    def refresh(self) -> None:
        """Show the downloads and what a check has found."""
        self.answer.value = html.news(self._checked)
        self.rows.show({shown.key: shown for shown in self.state.downloads()})

    def picture(self) -> str:
        """The downloads as they are."""
        shown = "".join(_describe(download) for download in self.state.downloads())
        return shown or html.line("There were no downloads.", dim=True)

    def cancel(self, job_id: str) -> None:
        """Stop a download; what has come stays."""

        def task(session: Session) -> None:
            job = session.cancel_download(job_id)
            with self.guard:
                self.state.put(job)

        self.work(task)

    def resume(self, job_id: str) -> None:
        """Go on with a download that was cancelled or has failed."""

        def task(session: Session) -> None:
            job = session.resume_download(job_id)
            with self.guard:
                self.state.put(job)

        self.work(task)

    def _download(self) -> None:
        repo = self.repo.value.strip()

        def task(session: Session) -> None:
            job = session.download(repo)
            with self.guard:
                self._checked = ""
                self.state.put(job)

        self._with_repo(repo, task)

    def _check(self) -> None:
        repo = self.repo.value.strip()

        def task(session: Session) -> None:
            found = _words(session.verify_repo(repo))
            with self.guard:
                self._checked = found

        self._with_repo(repo, task)

    def _with_repo(self, repo: str, task: Callable[[Session], None]) -> None:
        if repo:
            self.work(task)
        else:
            self.say("Name a model first, such as org/name.")


class _Row:
    """One download: how far it is, and the button that it can have now."""

    def __init__(self, downloads: Downloads, key: str) -> None:
        self._text = growing(ipywidgets.HTML())
        self._cancel = button("Cancel", "", lambda: downloads.cancel(key))
        self._resume = button("Resume", "", lambda: downloads.resume(key))
        self.box = row(self._text, self._cancel, self._resume)

    def parts(self) -> list[ipywidgets.Widget]:
        """Text and buttons."""
        return [self._text, self._cancel, self._resume]

    def show(self, item: DownloadRow) -> None:
        """Write `item` to the row."""
        self._text.value = _describe(item)
        self._cancel.disabled = not item.runs
        self._resume.disabled = not item.can_resume
        self._cancel.tooltip = f"Stop the download of {item.name}; what has come stays"
        self._resume.tooltip = f"Go on with the download of {item.name}"


def _describe(download: DownloadRow) -> str:
    shown = html.line(download.name) + html.line(download.words, dim=True)
    if download.fraction is not None and (download.runs or download.can_resume):
        shown += html.bar(download.fraction, f"Download of {download.name}")
    return shown + html.error(download.failure or "")


def _words(check: RepoCheck) -> str:
    if check.status != "ok":
        return f"{check.repo_id}: {check.message}"
    files = "1 file" if check.matched_files == 1 else f"{check.matched_files} files"
    total, free = size(check.total_bytes), size(check.free_disk_bytes)
    return f"{check.repo_id}: {files}, {total}; {free} of the disk are free."
