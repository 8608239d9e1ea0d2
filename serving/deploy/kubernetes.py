"""A `Deployment` as Kubernetes objects, and as an InferenceService of KServe."""

from __future__ import annotations

import hashlib
from typing import Any

from serving.deploy import tensorflow_serving
from serving.deploy.tensorflow_serving import Deployment

_ACCELERATOR = "nvidia.com/gpu"
# Load of the processors, in percent of what is asked for, at which another server is started.
_TARGET_LOAD = 70
# Above 10,000: no user of the machine below, who might own files there, has this number.
_USER = 10_001
# Room for the container's log and /tmp, into which hardly anything is written.
_SCRATCH = "1Gi"
# What a bucket needs: names, the store, and the address that gives the service account's token.
_DNS, _STORE, _TOKEN = 53, 443, (80, 988)
# Part of the requests that a new revision of KServe gets first, in percent.
_CANARY_PERCENT = 10


def objects(deployment: Deployment) -> str:
    """ConfigMap, Deployment, Service, HorizontalPodAutoscaler, PodDisruptionBudget and
    NetworkPolicy.
    """
    where = (
        "The pods' service account must be allowed to read the bucket."
        if deployment.remote
        else f"The claim {_claim(deployment)} must hold the numbered versions in its root."
    )
    return tensorflow_serving.commented(
        f"kubectl apply -f tensorflow-serving.yaml\n{where}"
    ) + tensorflow_serving.dump(
        _config_map(deployment),
        _workload(deployment),
        _service(deployment),
        _autoscaler(deployment),
        _disruption_budget(deployment),
        _network_policy(deployment),
    )


def inference_service(deployment: Deployment) -> str:
    """An InferenceService for KServe's own TensorFlow Serving runtime."""
    predictor = {
        "minReplicas": deployment.min_replicas,
        "maxReplicas": deployment.max_replicas,
        "canaryTrafficPercent": _CANARY_PERCENT,
        "model": {
            "modelFormat": {"name": "tensorflow"},
            "runtimeVersion": _tag(deployment.image),
            "storageUri": (
                deployment.directory if deployment.remote else f"pvc://{_claim(deployment)}"
            ),
            "resources": _resources(deployment),
        },
    }
    return tensorflow_serving.commented(f"""
        kubectl apply -f kserve.yaml
        In the place of tensorflow-serving.yaml, where KServe is installed. Its runtime has ports and flags of
        its own: labels, batching and metrics are not set here, and the model answers as
        {deployment.object_name}. A change makes a new revision; it gets canaryTrafficPercent of the requests
        until that is 100 or gone.
        """) + tensorflow_serving.dump(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": _metadata(deployment),
            "spec": {"predictor": predictor},
        }
    )


def _config_map(deployment: Deployment) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(deployment),
        "data": {
            tensorflow_serving.MODELS: tensorflow_serving.models_config(deployment),
            tensorflow_serving.BATCHING: tensorflow_serving.batching_parameters(deployment),
            tensorflow_serving.MONITORING: tensorflow_serving.monitoring_config(deployment),
        },
    }


def _workload(deployment: Deployment) -> dict[str, Any]:
    volumes = _volumes(deployment)
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": _apart(deployment),
        "containers": [_container(deployment)],
        "volumes": [volume for volume, _ in volumes],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(deployment),
        # Without `replicas`: each apply would undo what the autoscaler has done.
        "spec": {
            "selector": {"matchLabels": _labels(deployment)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {
                    "labels": _labels(deployment),
                    "annotations": _annotations(deployment),
                },
                "spec": pod,
            },
        },
    }


def _container(deployment: Deployment) -> dict[str, Any]:
    ready = {
        "exec": {"command": tensorflow_serving.ready_command(deployment)},
        "periodSeconds": 5,
        "timeoutSeconds": 5,
    }
    return {
        "name": "tensorflow-serving",
        "image": deployment.image,
        # A tag may be set anew: all pods have what it stands for now, and not what their node once
        # got.
        "imagePullPolicy": "Always",
        "command": [tensorflow_serving.BINARY],
        "args": tensorflow_serving.container_flags(deployment),
        "ports": [
            {"name": "rest", "containerPort": deployment.rest_port},
            {"name": "grpc", "containerPort": deployment.grpc_port},
        ],
        "resources": _resources(deployment, **{"ephemeral-storage": _SCRATCH}),
        # Ten minutes for loading and warm-up, then liveness begins.
        "startupProbe": {**ready, "failureThreshold": 120},
        # gRPC's health service would not do: it says SERVING whatever becomes of the model.
        "readinessProbe": {**ready, "failureThreshold": 3},
        # But it does for this: a server whose model has gone must not be started again and again.
        "livenessProbe": {
            "grpc": {"port": deployment.grpc_port},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        # Requests still come until all have heard that this pod is leaving.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "10"]}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [mount for _, mount in _volumes(deployment)],
    }


def _volumes(deployment: Deployment) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Volumes of the pod, each with its mount."""
    config = {"name": "config", "configMap": {"name": deployment.object_name}}
    found: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (config, {"name": "config", "mountPath": tensorflow_serving.CONFIG, "readOnly": True}),
        (
            {"name": "tmp", "emptyDir": {"sizeLimit": _SCRATCH}},
            {"name": "tmp", "mountPath": "/tmp"},
        ),
    ]
    if not deployment.remote:
        claim = {"claimName": _claim(deployment), "readOnly": True}
        mount = {"name": "model", "mountPath": deployment.directory, "readOnly": True}
        found.append(({"name": "model", "persistentVolumeClaim": claim}, mount))
    return found


def _service(deployment: Deployment) -> dict[str, Any]:
    ports = (("rest", deployment.rest_port), ("grpc", deployment.grpc_port))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(deployment),
        "spec": {
            "selector": _labels(deployment),
            "ports": [{"name": name, "port": port, "targetPort": name} for name, port in ports],
        },
    }


def _autoscaler(deployment: Deployment) -> dict[str, Any]:
    load = {"type": "Utilization", "averageUtilization": _TARGET_LOAD}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(deployment),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": deployment.object_name,
            },
            "minReplicas": deployment.min_replicas,
            "maxReplicas": deployment.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": load}}],
        },
    }


def _disruption_budget(deployment: Deployment) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(deployment),
        # Not minAvailable: with a single server no node could ever be emptied.
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _labels(deployment)}},
    }


def _network_policy(deployment: Deployment) -> dict[str, Any]:
    """Pods of the cluster may call the two ports; the server itself calls nobody but its bucket.

    A model is code: what it reads it must not be able to send away.
    """
    callers = {
        "from": [{"namespaceSelector": {}}],
        "ports": _tcp(deployment.rest_port, deployment.grpc_port),
    }
    bucket = {"ports": [{"protocol": "UDP", "port": _DNS}, *_tcp(_DNS, _STORE, *_TOKEN)]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(deployment),
        "spec": {
            "podSelector": {"matchLabels": _labels(deployment)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [callers],
            "egress": [bucket] if deployment.remote else [],
        },
    }


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _apart(deployment: Deployment) -> dict[str, Any]:
    """Servers on machines of their own; preferred, so that none waits where there are few."""
    others = {
        "labelSelector": {"matchLabels": _labels(deployment)},
        "topologyKey": "kubernetes.io/hostname",
    }
    preferred = [{"weight": 100, "podAffinityTerm": others}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _metadata(deployment: Deployment) -> dict[str, Any]:
    return {"name": deployment.object_name, "labels": _labels(deployment)}


def _labels(deployment: Deployment) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "tensorflow-serving",
        "app.kubernetes.io/instance": deployment.object_name,
    }


def _annotations(deployment: Deployment) -> dict[str, str]:
    # What is only read at the start: a change makes new pods. models.config is looked at again and
    # again.
    fixed = tensorflow_serving.batching_parameters(
        deployment
    ) + tensorflow_serving.monitoring_config(deployment)
    annotations = {"resnet-tfx/configuration": hashlib.sha256(fixed.encode()).hexdigest()[:12]}
    if deployment.metrics_path:
        annotations |= {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(deployment.rest_port),
            "prometheus.io/path": deployment.metrics_path,
        }
    return annotations


def _resources(deployment: Deployment, **others: str) -> dict[str, Any]:
    """Requests and limits are equal: the pod is the last to be evicted."""
    needs: dict[str, str] = {"cpu": str(deployment.cpu), "memory": deployment.memory, **others}
    if deployment.gpus:
        needs[_ACCELERATOR] = str(deployment.gpus)
    return {"requests": needs, "limits": needs}


def _claim(deployment: Deployment) -> str:
    return f"{deployment.object_name}-models"


def _tag(image: str) -> str:
    """The tag of NAME:TAG or NAME:TAG@DIGEST, where a registry's port may stand in the name."""
    return image.partition("@")[0].rpartition(":")[2]
