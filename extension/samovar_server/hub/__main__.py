"""`python -m samovar_server.hub` and `samovar hub`: the service, started by a Hub."""

import sys


def main() -> None:
    """Serve with the arguments of the command line, until the Hub says to stop."""
    try:
        from samovar_server.hub.service import HubService
    except ModuleNotFoundError as missing:
        sys.exit(
            f"samovar's service for JupyterHub is not installed ({missing}). Run: pip install 'samovar[hub]'"
        )
    HubService.launch_instance()


if __name__ == "__main__":
    main()
