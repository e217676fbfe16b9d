"""The manifests of examples/kubernetes are what their operators take, field by field."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from kubeflow_trainer_api import models
from spawn import ROOT

Manifest = dict[str, Any]

# Of the MPI operator, kubeflow.org/v2beta1; its pods are Kubernetes' own.
MPIJOB = {
    "launcherCreationPolicy": str, "mpiImplementation": str, "mpiReplicaSpecs": dict, "runLauncherAsWorker": bool,
    "runPolicy": dict, "slotsPerWorker": int, "sshAuthMountPath": str,
}  # fmt: skip
POLICY = {
    "activeDeadlineSeconds": int, "backoffLimit": int, "cleanPodPolicy": str, "managedBy": str,
    "schedulingPolicy": dict, "suspend": bool, "ttlSecondsAfterFinished": int,
}  # fmt: skip
REPLICAS = {"replicas": int, "restartPolicy": str, "template": dict}


def manifest(name: str) -> Manifest:
    found: Manifest = yaml.safe_load((ROOT / "examples" / "kubernetes" / name).read_text())
    return found


def fields(given: Manifest, kinds: dict[str, type]) -> None:
    assert given.keys() <= kinds.keys(), "an unknown field, which Kubernetes would drop"
    for name, value in given.items():
        assert isinstance(value, kinds[name]), name


def check_mpijob(job: Manifest) -> None:
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    assert job.keys() == {"apiVersion", "kind", "metadata", "spec"}
    fields(job["spec"], MPIJOB)
    fields(job["spec"]["runPolicy"], POLICY)
    assert job["spec"]["mpiReplicaSpecs"].keys() == {"Launcher", "Worker"}
    for replicas in job["spec"]["mpiReplicaSpecs"].values():
        fields(replicas, REPLICAS)
        check(models.IoK8sApiCoreV1PodTemplateSpec, replicas["template"])


def check(model: Any, given: Manifest) -> None:
    """Every field is known to the model, and has its type."""
    assert model.from_dict(given).to_dict() == given


def test_mpijob() -> None:
    job = manifest("mpijob.yaml")
    check_mpijob(job)
    spec = job["spec"]
    [launcher] = spec["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    ranks = int(launcher["command"][launcher["command"].index("-n") + 1])
    assert ranks == spec["slotsPerWorker"] * spec["mpiReplicaSpecs"]["Worker"]["replicas"]
    assert "--hostfile" in launcher["command"], "Open MPI 5 finds the operator's by no variable"


def test_trainjob() -> None:
    check(models.TrainerV1alpha1TrainJob, manifest("trainjob.yaml"))


@pytest.mark.parametrize("where", ["spec", "pod", "container"])
def test_a_misspelled_field_is_found(where: str) -> None:
    job = manifest("mpijob.yaml")
    pod = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]
    places = {"spec": job["spec"], "pod": pod, "container": pod["containers"][0]}
    places[where]["slotPerWorker"] = 4
    with pytest.raises(AssertionError):
        check_mpijob(job)
