"""The built distribution, and throwaway environments to install it into."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTER_SITE_PACKAGES = Path(sysconfig.get_path("purelib"))


def run(*command: str | Path, **options: object) -> str:
    """The command's stdout and stderr; a failure shows them."""
    done = subprocess.run(  # type: ignore[call-overload]
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        stdin=subprocess.DEVNULL,
        **options,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@dataclass(frozen=True)
class Distributions:
    """`wheel` was built from the sdist, `wheel_of_tree` straight from the checkout."""

    sdist: Path
    wheel: Path
    wheel_of_tree: Path


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    # hatchling comes from the running environment: no downloads, and the pinned version is the one tested
    build = [sys.executable, "-m", "build", "--no-isolation"]
    dist, tree = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("tree")
    run(*build, "--outdir", dist, ROOT)
    run(*build, "--wheel", "--outdir", tree, ROOT)
    return Distributions(*dist.glob("*.tar.gz"), *dist.glob("*.whl"), *tree.glob("*.whl"))


@pytest.fixture(scope="session")
def editable_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install -e` builds by the same hook (PEP 660) and then installs."""
    directory = tmp_path_factory.mktemp("editable")
    hook = f"import hatchling.build; hatchling.build.build_editable({str(directory)!r})"
    run(sys.executable, "-c", hook, cwd=ROOT)
    (wheel,) = directory.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Environment:
    """A virtual environment with one samovar in it; everything else is the running environment's."""

    prefix: Path
    home: Path

    def python(self, *arguments: str) -> str:
        """Run its Python, away from the checkout and from the user's own Jupyter settings."""
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "PYTHON"))
        }
        environ |= {
            "HOME": str(self.home),
            "IPYTHONDIR": str(self.home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(self.home / "config"),
            "JUPYTER_DATA_DIR": str(self.home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.home / "runtime"),
        }
        return run(self.prefix / "bin" / "python", *arguments, cwd=self.home, env=environ)


@pytest.fixture
def install(tmp_path: Path) -> Callable[[Path], Environment]:
    """Install a wheel into a new environment."""

    def install_wheel(wheel: Path) -> Environment:
        prefix, home = tmp_path / "venv", tmp_path / "home"
        home.mkdir()
        run(sys.executable, "-m", "venv", "--without-pip", prefix)
        python = prefix / "bin" / "python"
        run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
        # Only now, so that pip did not see the samovar of the running environment. A path in a .pth file
        # does not run the .pth files there, so an editable samovar of the running environment stays out.
        site_packages = sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)})
        (Path(site_packages) / "outer.pth").write_text(f"{OUTER_SITE_PACKAGES}\n")
        return Environment(prefix, home)

    return install_wheel
