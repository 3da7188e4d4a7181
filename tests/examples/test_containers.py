"""The Dockerfile and the manifest for KubeRay, held against what the code has; neither Docker nor a cluster is here."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import click
import pytest
import yaml

from exaone_export.cli.main import cli
from tests.conftest import ROOT


def instructions() -> list[tuple[str, str]]:
    """Those of the Dockerfile, lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def test_the_image_copies_what_an_installation_needs_and_runs_as_nobody_special() -> None:
    found = instructions()
    copied = {word for name, rest in found if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = set(project["tool"]["setuptools"]["package-dir"].values())
    assert copied == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", *rooms}
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*" and {f"!{name}" for name in copied} <= set(ignored)
    named = " ".join(rest for name, rest in found if name == "ARG" and "EXTRAS" in rest)
    assert set(re.findall(r"EXTRAS=(\S+)", named)) == {"cpu,serve"}
    assert {"cpu", "serve", "ray"} <= set(project["project"]["optional-dependencies"])
    order = [name for name, _ in found]
    assert order.index("USER") < order.index("ENTRYPOINT") and dict(found)["USER"] == "10001"


def test_the_image_starts_a_command_that_there_is_and_asks_a_path_that_there_is() -> None:
    found = dict(instructions())
    assert json.loads(found["ENTRYPOINT"]) == ["exaone-export"]
    name, *arguments = json.loads(found["CMD"])
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    parsed = command.make_context(name, arguments)
    assert (parsed.params["host"], parsed.params["artifact"]) == ("0.0.0.0", "/artifact")
    check = json.loads(found["HEALTHCHECK"].partition("CMD ")[2])
    [path] = re.findall(r"http://127.0.0.1:8000(/\w+)'", check[2])
    from exaone_export.runtime.serve.transport.security import OPEN_PATHS

    assert path in OPEN_PATHS and found["EXPOSE"] == "8000"


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "kubernetes" / "rayservice.yaml").read_text())
    return found


def test_the_manifest_describes_an_application_that_can_be_made(
    service: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from ray._common.utils import import_attr
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    [application] = config.applications
    monkeypatch.setenv("EXAONE_EXPORT_API_KEY", "a-key-of-the-tests-0123456789")
    made = import_attr(application.import_path)(application.args)
    [model, settings] = made._bound_deployment.init_args
    assert settings.api_keys == ("a-key-of-the-tests-0123456789",) and settings.model_name == "exaone"
    deployed = model._bound_deployment
    scaled = deployed._deployment_config.autoscaling_config
    [group] = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (scaled.min_replicas, scaled.max_replicas)
    [container] = group["template"]["spec"]["containers"]
    assert float(container["resources"]["requests"]["cpu"]) >= deployed.ray_actor_options["num_cpus"]


def test_every_pod_has_the_artifact_the_key_and_no_rights(service: dict[str, Any]) -> None:
    cluster = service["spec"]["rayClusterConfig"]
    artifact = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]["artifact"]
    user = dict(instructions())["USER"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsUser"] == int(user) and pod["securityContext"]["runAsNonRoot"]
        assert artifact.startswith(container["volumeMounts"][0]["mountPath"])
        assert container["env"][0]["name"] == "EXAONE_EXPORT_API_KEY"
    pinned = next(
        line for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["ray"]
        if line.startswith("ray[")
    )  # fmt: skip
    assert cluster["rayVersion"].rpartition(".")[0] in pinned
