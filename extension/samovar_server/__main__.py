"""`jupyter samovar` and `python -m samovar_server`: a server with the /v1 routes and without the Lab."""

import sys


def main() -> None:
    """Start the server with the arguments of the command line."""
    try:
        from samovar_server.app import SamovarApp
    except ModuleNotFoundError as missing:
        sys.exit(f"samovar's server is not installed ({missing}). Run: pip install 'samovar[local]'")
    SamovarApp.launch_instance()  # type: ignore[no-untyped-call]  # ExtensionApp's


if __name__ == "__main__":
    main()
