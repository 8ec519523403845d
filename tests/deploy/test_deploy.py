"""What can be checked of deploy/ where no container and no cluster runs: schemas, names, what is copied."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from ruamel.yaml import YAML

from samovar_server.forwarding import SERVICE_URL
from samovar_server.hub.identity import MANAGE
from samovar_server.hub.place import Place
from samovar_server.hub.service import HubService
from samovar_server.workbench import Workbench

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
INSTRUCTION = re.compile(r"^(FROM|ARG|ENV|RUN|COPY|WORKDIR|USER|EXPOSE|HEALTHCHECK|CMD)\s+(.*)$")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order; lines that go on are joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    found = [INSTRUCTION.match(line) for line in text.splitlines() if line]
    assert all(found), "an instruction that this test does not know"
    return [(match[1], match[2]) for match in found if match]


def copied() -> list[str]:
    """What the Dockerfile copies of the repository."""
    return [source for kind, rest in instructions() if kind == "COPY" for source in rest.split()[:-1]]


def documents(name: str) -> list[Any]:
    return list(YAML(typ="safe").load_all((DEPLOY / name).read_text()))


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_keep_to_the_schema(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, DEPLOY / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_starts_what_the_dockerfile_builds() -> None:
    (compose,) = documents("compose.yaml")
    targets = [rest.split()[-1] for kind, rest in instructions() if kind == "FROM"]
    ports = [rest for kind, rest in instructions() if kind == "EXPOSE"]
    assert list(compose["services"]) == targets == ["lab", "hub"]
    for service, port in zip(compose["services"].values(), ports, strict=True):
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
        volumes = [volume.partition(":")[0] for volume in service["volumes"]]
        assert set(volumes) <= set(compose["volumes"])
    (gpu,) = documents("compose.gpu.yaml")
    assert gpu["services"].keys() == compose["services"].keys()


def test_what_the_dockerfile_copies_is_enough_to_install(tmp_path: Path) -> None:
    let_in = [
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    ]
    assert sorted(let_in) == sorted(copied())
    for name in copied():
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [file.name.partition("-")[0] for file in (tmp_path / "dist").iterdir()] == ["samovar"]


@pytest.mark.parametrize("index", ["", "https://index.example/cpu"])
def test_pytorch_is_the_pinned_one_of_the_chosen_index(tmp_path: Path, index: str) -> None:
    (step,) = (rest for kind, rest in instructions() if kind == "RUN" and "torch" in rest)
    (tmp_path / "constraints.txt").write_text((ROOT / "constraints.txt").read_text())
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    pip.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TORCH_INDEX": index}
    done = subprocess.run(["sh", "-c", step], cwd=tmp_path, env=environ, capture_output=True, text=True)
    said = done.stdout.split()
    assert re.fullmatch(r"torch==[0-9.]+", said.pop())
    assert said == ["install", *(["--index-url", index] if index else [])]


def test_the_container_is_nobodys_root() -> None:
    users = [(kind, rest) for kind, rest in instructions() if kind in {"FROM", "USER", "CMD"}]
    assert [rest for kind, rest in users if kind == "USER"] == ["samovar", "root", "samovar"]
    for at, (kind, _) in enumerate(users):
        if kind == "CMD":
            assert users[at - 1] == ("USER", "samovar")


@pytest.mark.parametrize("status", [200, 503])
def test_the_health_check_tells_whether_it_serves(status: int) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # as http.server has it
            pass

    (check,) = (rest for kind, rest in instructions() if kind == "HEALTHCHECK")
    python, *arguments = json.loads(check.partition("CMD ")[2])
    assert python == "python"
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        environ = {"SAMOVAR_HEALTH_URL": f"http://127.0.0.1:{server.server_port}/v1/health"}
        done = subprocess.run([sys.executable, *arguments], env=environ, capture_output=True)
        thread.join()
    assert (done.returncode == 0) == (status == 200)


def test_commands_of_the_containers_can_be_run() -> None:
    commands = [json.loads(rest) for kind, rest in instructions() if kind == "CMD"]
    for command, module in zip(commands, ("jupyterlab", "jupyterhub"), strict=True):
        options = [word for word in command if word.startswith("--")]
        help_command = [sys.executable, "-m", module, *options, "--version"]
        done = subprocess.run(help_command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, shlex.join(help_command) + done.stderr


def test_kubernetes_says_what_the_hub_on_one_machine_says() -> None:
    """Scopes and names agree between values.yaml, samovar.yaml and jupyterhub_config.py."""
    (values,) = documents("kubernetes/values.yaml")
    config, deployment, _, service = documents("kubernetes/samovar.yaml")
    alone = (DEPLOY / "jupyterhub_config.py").read_text()
    roles = values["hub"]["loadRoles"]
    scopes = {scope for role in roles.values() for scope in role["scopes"]}
    assert {"access:services!service=samovar", MANAGE} <= scopes
    assert all(f'"{scope}"' in alone for scope in scopes)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environ = {entry["name"]: entry.get("value", "from-the-secret") for entry in container["env"]}
    place = Place.given(environ)
    assert place.port == service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"]
    host = f"http://{service['metadata']['name']}:{place.port}"
    assert values["hub"]["services"]["samovar"]["url"] == host
    assert values["singleuser"]["extraEnv"] == {SERVICE_URL: f"{host}{place.prefix}v1"}
    assert container["readinessProbe"]["httpGet"]["path"] == f"{place.prefix}v1/health"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (rule,) = values["singleuser"]["networkPolicy"]["egress"]
    assert rule["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    upstream = documents("kubernetes/vllm.yaml")[1]
    settings = config["data"]["samovar_hub_config.py"]
    assert f"http://{upstream['metadata']['name']}:{upstream['spec']['ports'][0]['port']}/v1" in settings
    for owner, name in re.findall(r"c\.(\w+)\.(\w+) =", settings):
        assert name in {"Workbench": Workbench, "HubService": HubService}[owner].class_traits(config=True)
    ast.parse(values["hub"]["extraConfig"]["samovar"])
    ray = documents("kubernetes/vllm-ray.yaml")[0]
    engine = YAML(typ="safe").load(ray["spec"]["serveConfigV2"])["applications"][0]["args"]["llm_configs"][0]
    workers = ray["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    gpus = workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    sizes = engine["engine_kwargs"]
    assert sizes["tensor_parallel_size"] * sizes["pipeline_parallel_size"] == gpus * workers["replicas"]
