"""`/v1/models/download`, `verify-repo` and `search`: bringing models here from the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import asdict

from tornado import web

from samovar_handlers.base import SamovarHandler
from samovar_server.downloader.job import Wanted
from samovar_server.protocol.downloads import DownloadRequest, SearchQuery, VerifyRequest
from samovar_server.protocol.fields import parse, validate


def wanted(request: VerifyRequest) -> Wanted:
    """The request as the downloader sees it; what its url means is not looked at yet."""
    return Wanted(
        reference=request.url,
        revision=request.revision,
        include=request.include,
        exclude=request.exclude,
        quantization=request.quantization,
        destination=request.destination,
    )


class DownloadsHandler(SamovarHandler):
    """All downloads."""

    @web.authenticated
    def get(self) -> None:
        """List the caller's downloads, the latest first, those of the user's other servers too."""
        jobs = self.workbench.downloads.jobs
        shown = [jobs.shown(job) for job in jobs.all() if job.is_shown_to(self.caller)]
        self.finish({"downloads": shown, "total_count": len(shown)})

    @web.authenticated
    def post(self) -> None:
        """Begin to bring a model to this machine, or join the equal download that runs."""
        self.require("download", "download models")
        request = parse(DownloadRequest, self.json_body())
        desk = self.workbench.downloads
        job = desk.request(request.url, wanted(request), self.caller.name)
        self.set_status(202)
        self.finish(desk.jobs.shown(job))


class DownloadHandler(SamovarHandler):
    """One download."""

    @web.authenticated
    def get(self, job_id: str) -> None:
        """Say how far a download is."""
        jobs = self.workbench.downloads.jobs
        self.finish(jobs.shown(jobs.of(self.caller, job_id)))

    @web.authenticated
    def delete(self, job_id: str) -> None:
        """Stop a download at once; what has come stays for a later one."""
        jobs = self.workbench.downloads.jobs
        self.finish(jobs.shown(jobs.cancel_of(self.caller, job_id)))


class ResumeHandler(SamovarHandler):
    """Going on with a download."""

    @web.authenticated
    def post(self, job_id: str) -> None:
        """Go on with a download that was cancelled or has failed."""
        self.require("download", "download models")
        jobs = self.workbench.downloads.jobs
        job = jobs.resume(jobs.of(self.caller, job_id).job_id)
        self.set_status(202)
        self.finish(jobs.shown(job))


class VerifyRepoHandler(SamovarHandler):
    """Looking before a download."""

    @web.authenticated
    async def post(self) -> None:
        """Say what a download would bring, or what stands in its way; nothing is fetched."""
        self.require("download", "ask the Hub of models, which the server does under its own name")
        request = parse(VerifyRequest, self.json_body())
        self.finish(asdict(await self.workbench.downloads.verify(request.url, wanted(request))))


class SearchHandler(SamovarHandler):
    """Finding models."""

    @web.authenticated
    async def get(self) -> None:
        """Find models of the Hugging Face Hub by a part of their names, `q`; at most `limit` of them."""
        arguments = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        query = validate(SearchQuery, arguments)
        self.require("download", "search the Hub, which the server does under its own name")
        found = await self.workbench.search(query.q, query.limit)
        self.finish({"models": [asdict(model) for model in found], "total_count": len(found)})
