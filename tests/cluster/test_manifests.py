"""What is deployed: manifests that their schemas accept, commands that jobs accept, one Ray."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster import submit

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = "1.30"
RAY_FIELDS = {
    "RayJob": {
        *("entrypoint", "submissionMode", "submitterConfig", "backoffLimit"),
        *("activeDeadlineSeconds", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"),
        "rayClusterSpec",
    },
    "RayCronJob": {"schedule", "suspend", "jobTemplate"},
    "RayCluster": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
}
"""fields of KubeRay's API reference (ray.io/v1) of 1.6 that are used"""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


KUBERAY = [
    (name, document)
    for name in ("rayjob.yaml", "raycronjob.yaml", "cronjob.yaml")
    for document in documents(name)
]
IDS = [f"{name} {document['kind']}" for name, document in KUBERAY]


def ray_clusters() -> Iterator[dict[str, Any]]:
    """The spec of every Ray cluster in the manifests."""
    for _, document in KUBERAY:
        match document["kind"]:
            case "RayJob":
                yield document["spec"]["rayClusterSpec"]
            case "RayCronJob":
                yield document["spec"]["jobTemplate"]["rayClusterSpec"]
            case "RayCluster":
                yield document["spec"]


def pod_templates(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"] for group in groups]


@pytest.mark.parametrize(("name", "document"), KUBERAY, ids=IDS)
def test_kubernetes_accepts_every_manifest_and_pod(name: str, document: dict[str, Any]):
    validate = pytest.importorskip("kubernetes_validate").validate
    if document["kind"] not in RAY_FIELDS:
        validate(document, KUBERNETES, strict=True)
        return
    assert document["apiVersion"] == "ray.io/v1"
    assert document["spec"].keys() <= RAY_FIELDS[document["kind"]]
    job = document["spec"].get("jobTemplate", {})
    assert job.keys() <= RAY_FIELDS["RayJob"]


@pytest.mark.parametrize("spec", list(ray_clusters()))
def test_ray_clusters_are_of_valid_pods_private_and_want_a_token(spec: dict[str, Any]):
    validate = pytest.importorskip("kubernetes_validate").validate
    assert spec.keys() <= RAY_FIELDS["RayCluster"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for template in pod_templates(spec):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template}
        validate(pod, KUBERNETES, strict=True)


def test_an_image_that_was_loaded_by_hand_is_not_looked_for_elsewhere():
    """Without a tag it would be `latest`, which is pulled each time."""
    manifests = [(CLUSTER / name).read_text() for name in {name for name, _ in KUBERAY}]
    for text in manifests:
        assert text.count("imagePullPolicy: IfNotPresent") == text.count("image: argus") > 1


def test_a_manifest_with_a_slip_is_not_accepted():
    kubernetes = pytest.importorskip("kubernetes_validate")
    (cron,) = (d for d in documents("cronjob.yaml") if d["kind"] == "CronJob")
    cron["spec"]["concurrencyPolice"] = "Forbid"
    with pytest.raises(kubernetes.ValidationError, match="concurrencyPolice"):
        kubernetes.validate(cron, KUBERNETES, strict=True)


def test_two_nights_never_run_at_a_time():
    (cron,) = (d for d in documents("cronjob.yaml") if d["kind"] == "CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert "activeDeadlineSeconds" not in cron["spec"]["jobTemplate"]["spec"]  # the job would go on
    (nightly,) = documents("raycronjob.yaml")
    assert nightly["spec"]["jobTemplate"]["activeDeadlineSeconds"] < 24 * 3600


def test_ray_accepts_the_cluster_on_aws_which_is_private_and_wants_a_token():
    (config,) = documents("aws.yaml")
    validate_config(prepare_config(config))
    head = " ".join(config["head_start_ray_commands"])
    workers = " ".join(config["worker_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "RAY_AUTH_MODE=token" in head
    assert "RAY_AUTH_MODE=token" in workers
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config({**config, "max_worker": 3}))


def entrypoints() -> Iterator[list[str]]:
    """Each command that a manifest runs, from the job's name on."""
    for _, document in KUBERAY:
        spec = document["spec"]
        if document["kind"] == "CronJob":
            (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
            config = tyro.cli(submit.Config, args=container["args"])
            assert submit.entrypoint(config.command)
            assert config.submission_id == "$(JOB_NAME)"
            yield list(config.command)
        elif "entrypoint" in (job := spec.get("jobTemplate", spec)):
            words = shlex.split(job["entrypoint"])
            assert words[:2] == ["python", "-m"]
            yield [words[2].removeprefix("jobs."), *words[3:]]


def test_jobs_accept_the_commands_of_the_manifests():
    found = list(entrypoints())
    assert len(found) == 3
    for name, *options in found:
        config = importlib.import_module(f"jobs.{name}").parse(options)
        assert config.out == "s3://bucket/run"


def test_one_ray_is_named_everywhere():
    (pinned,) = re.findall(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    named = []
    for path in (*CLUSTER.glob("*.yaml"), CLUSTER / "Dockerfile"):
        text = path.read_text()
        named += re.findall(r"rayproject/ray:([\d.]+)-|rayVersion: \"([\d.]+)\"", text)
    assert len(named) == 6
    assert {first or second for first, second in named} == {pinned}


def test_the_image_holds_what_its_dockerfile_copies():
    ignore = (CLUSTER / "Dockerfile.dockerignore").read_text().split()
    copied = re.findall(r"^COPY --chown=ray (.+) \S+$", (CLUSTER / "Dockerfile").read_text(), re.M)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in ignore
    extras = set(re.findall(r"--extra (\w+)", (CLUSTER / "Dockerfile").read_text()))
    declared = re.search(r"argus\[(.+)\]", (ROOT / "pyproject.toml").read_text())
    assert declared is not None
    assert extras == set(declared[1].split(","))
    assert extras == set(re.findall(r"--extra (\w+)", (CLUSTER / "aws.yaml").read_text()))
