"""What all tests share. Only this file may name plugins; fixtures of one folder live in its conftest."""

pytest_plugins = ["pytest_jupyter.jupyter_server", "tests.plugins.chromium"]
