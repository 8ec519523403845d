"""samovar in a notebook: client, magics and command line. Imports neither torch nor the server."""
