"""One plan for many machines, written for three systems: Kubernetes, KServe, Ray Serve. Nothing is deployed from here.

A schema sees a wrong type. It does not see that a Service looks for a label that no pod has: `faults` looks for such.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PORT = 8000  # where vLLM listens


@dataclass(frozen=True)
class Plan:
    """What shall run: a name, the model, how many replicas, requests in work that each should have, the engine."""

    name: str
    model: str
    lowest: int
    highest: int
    target: int
    start_seconds: int  # in which a replica has to answer for the first time
    image: str = "vllm/vllm-openai:v0.11.0"  # a fixed version: "latest" is another one tomorrow

    def __post_init__(self) -> None:
        if not 1 <= self.lowest <= self.highest or self.target < 1 or self.start_seconds < 1:
            raise ValueError("A plan needs 1 <= lowest <= highest, and a target and a start of at least 1.")


def kubernetes(plan: Plan) -> list[dict]:
    """Deployment, Service and HorizontalPodAutoscaler: what runs, how it is reached, how many."""
    pod = {"metadata": {"labels": _labels(plan)}, "spec": {"containers": [_container(plan)]}}
    deployment = {"replicas": plan.lowest, "selector": {"matchLabels": _labels(plan)}, "template": pod}
    service = {"selector": _labels(plan), "ports": [{"port": 80, "targetPort": "http"}]}
    metric = {
        "type": "Pods",
        "pods": {
            # Kubernetes cannot count requests by itself: an adapter has to hand it this metric of vLLM's.
            "metric": {"name": "vllm:num_requests_running"},
            "target": {"type": "AverageValue", "averageValue": str(plan.target)},
        },
    }
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "name": plan.name}
    scaler = {"scaleTargetRef": scaled, "minReplicas": plan.lowest, "maxReplicas": plan.highest, "metrics": [metric]}
    return [
        _document("apps/v1", "Deployment", plan.name, deployment),
        _document("v1", "Service", plan.name, service),
        _document("autoscaling/v2", "HorizontalPodAutoscaler", plan.name, scaler),
    ]


def _labels(plan: Plan) -> dict:
    """How the documents find each other; a dict for each, because YAML writes a shared one as a reference."""
    return {"app": plan.name}


def _health() -> dict:
    return {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5}


def _document(version: str, kind: str, name: str, spec: dict) -> dict:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _container(plan: Plan) -> dict:
    # The key comes from a Secret: a file in a repository is no place for one.
    key = {"secretKeyRef": {"name": f"{plan.name}-key", "key": "key"}}
    return {
        "name": "engine",
        "image": plan.image,
        "args": ["--model", plan.model, "--port", str(PORT)],
        "env": [{"name": "VLLM_API_KEY", "valueFrom": key}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        # Until this has passed once, nothing else is asked: a model takes long to load.
        "startupProbe": _health() | {"failureThreshold": -(-plan.start_seconds // 5)},
        "readinessProbe": _health(),
    }


def kserve(plan: Plan) -> dict:
    """KServe's InferenceService: one document, from which it makes the three of Kubernetes, and the balancer."""
    model = {
        "modelFormat": {"name": "huggingface"},
        "args": [f"--model_name={plan.name}"],
        "storageUri": f"hf://{plan.model}",
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    predictor = {
        "minReplicas": plan.lowest,
        "maxReplicas": plan.highest,
        "scaleMetric": "concurrency",
        "scaleTarget": plan.target,
        "model": model,
    }
    return _document("serving.kserve.io/v1beta1", "InferenceService", plan.name, {"predictor": predictor})


def ray_serve(plan: Plan) -> dict:
    """The configuration that `serve deploy` takes: vLLM inside Ray Serve, which is balancer and autoscaler."""
    scaling = {"min_replicas": plan.lowest, "max_replicas": plan.highest, "target_ongoing_requests": plan.target}
    engine = {
        "model_loading_config": {"model_id": plan.name, "model_source": plan.model},
        "deployment_config": {"autoscaling_config": scaling},
    }
    application = {
        "name": plan.name,
        "route_prefix": "/",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [engine]},
    }
    # Ray Serve itself has no key: only this machine, and a gate in front.
    return {"http_options": {"host": "127.0.0.1", "port": PORT}, "applications": [application]}


# --- checks ---------------------------------------------------------------------------------------------


def faults(documents: Sequence[dict]) -> list[str]:
    """What does not fit together in Kubernetes' documents, a sentence each."""
    kinds = {document["kind"]: document for document in documents}
    deployment, service = kinds["Deployment"]["spec"], kinds["Service"]["spec"]
    scaler = kinds["HorizontalPodAutoscaler"]["spec"]
    pod = deployment["template"]
    labels, containers = pod["metadata"]["labels"].items(), pod["spec"]["containers"]
    found = []
    if not deployment["selector"]["matchLabels"].items() <= labels:
        found.append("The Deployment selects labels that its own pods do not have.")
    if not service["selector"].items() <= labels:
        found.append("The Service selects labels that no pod has: it would reach nobody.")
    opened = {port["name"] for container in containers for port in container["ports"]}
    found += [
        f"The Service sends to the port {port['targetPort']!r}, which no container opens."
        for port in service["ports"]
        if port["targetPort"] not in opened
    ]
    if scaler["scaleTargetRef"]["name"] != kinds["Deployment"]["metadata"]["name"]:
        found.append("The autoscaler scales a Deployment of another name.")
    if scaler["minReplicas"] > scaler["maxReplicas"]:
        found.append("The autoscaler's lowest number is above its highest.")
    found += [
        f"The container {container['name']!r} is ready as soon as it runs: it would be asked while it loads."
        for container in containers
        if "readinessProbe" not in container
    ]
    return found


VALIDATOR = "kubernetes-validate"  # Kubernetes' own schemas, on board: nothing is fetched


def schema_verdict(file: Path) -> str | None:
    """What `kubernetes-validate` says about a file: "" if all is well, None without the program."""
    program = shutil.which(VALIDATOR)
    if program is None:
        return None
    done = subprocess.run([program, "--strict", str(file)], capture_output=True, text=True, timeout=120)
    said = f"{done.stdout}\n{done.stderr}".replace(str(file), file.name).strip()
    return said if done.returncode else ""
