"""Where a Hub wants its service to be; it tells its services by environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Place:
    """The address to listen on, and the path below which everything is, with a slash at both ends."""

    host: str
    port: int
    prefix: str

    @classmethod
    def given(cls, environ: Mapping[str, str]) -> Place:
        """What the environment says. ValueError when it says too little, or asks for what is not there."""
        missing = [
            name
            for name in ("JUPYTERHUB_API_TOKEN", "JUPYTERHUB_SERVICE_NAME", "JUPYTERHUB_SERVICE_URL")
            if not environ.get(name)
        ]
        if missing:
            raise ValueError(
                f"{', '.join(missing)} not set. A JupyterHub sets what its services need: add this one to "
                "c.JupyterHub.services, as deploy/jupyterhub_config.py does."
            )
        if environ.get("JUPYTERHUB_SSL_CERTFILE"):
            raise ValueError("c.JupyterHub.internal_ssl is on, and this service does not speak TLS.")
        given = environ["JUPYTERHUB_SERVICE_URL"]
        url = urlsplit(given)
        if url.scheme != "http" or url.hostname is None or url.port is None:
            raise ValueError(
                "JUPYTERHUB_SERVICE_URL, the service's `url` in c.JupyterHub.services, has to look like "
                f"http://127.0.0.1:8095, not like {given}."
            )
        prefix = (
            environ.get("JUPYTERHUB_SERVICE_PREFIX") or f"/services/{environ['JUPYTERHUB_SERVICE_NAME']}/"
        )
        return cls(url.hostname, url.port, prefix)
