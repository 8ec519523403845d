"""What the operator's guide says of metrics, figures, settings and files is so."""

from __future__ import annotations

import re
from pathlib import Path

import samovar_server.metrics
from samovar_server.hub.service import HubService
from samovar_server.sharing import Sharing
from samovar_server.workbench import Workbench

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")


def table(header: str) -> list[list[str]]:
    """The rows of the table whose header begins like that, as cells."""
    rows = GUIDE.partition(f"| {header} |")[2].partition("\n\n")[0].splitlines()[2:]
    assert rows, header
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_every_metric_is_explained() -> None:
    source = Path(samovar_server.metrics.__file__).read_text()
    exist = sorted(set(re.findall(r'"(samovar_[a-z_]+)"', source)))
    assert [row[0] for row in table("metric")] == [f"`{name}`" for name in exist]
    assert all(len(row[1]) > 10 for row in table("metric"))


def test_speeds_are_those_of_the_benchmarks() -> None:
    measured = (ROOT / "docs" / "benchmarks" / "README.md").read_text()
    rows = table("users at once")
    assert len(rows) > 2
    for users, *speeds in rows:
        section = re.split(rf"^### Short, {users} clients?$", measured, flags=re.MULTILINE)[1]
        for precision, (shared, each) in {"fp32": speeds[:2], "int4": speeds[2:]}.items():
            assert f"| samovar {precision} | {shared} |" in section.partition("###")[0]
            assert each == f"{float(shared) / int(users):.1f}"


def test_settings_and_files_exist() -> None:
    owners = {"Workbench": Workbench, "Sharing": Sharing, "HubService": HubService}
    for owner, name in re.findall(r"`c\.(Workbench|Sharing|HubService)\.(\w+)", GUIDE):
        assert name in owners[owner].class_traits(config=True)
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", GUIDE):
        assert (ROOT / "docs" / link).exists(), link
