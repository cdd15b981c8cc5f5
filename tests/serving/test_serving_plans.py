"""Three systems' files from one plan; what does not fit together is found, also where a schema is content."""

import copy
import shutil
from pathlib import Path

import pytest
import yaml

from course_utils.serving import plans

PLAN = plans.Plan("prisma", "someone/model", lowest=2, highest=6, target=8, start_seconds=602)


def spoiled(change) -> list[str]:
    documents = copy.deepcopy(plans.kubernetes(PLAN))
    change(*[document["spec"] for document in documents])
    return plans.faults(documents)


def test_the_plan_stands_in_all_three() -> None:
    deployment, service, scaler = plans.kubernetes(PLAN)
    assert deployment["spec"]["replicas"] == 2 and scaler["spec"]["maxReplicas"] == 6
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["startupProbe"]["failureThreshold"] == 121  # every 5 s
    assert "path" not in container["readinessProbe"] and container["readinessProbe"]["httpGet"]["path"] == "/health"
    predictor = plans.kserve(PLAN)["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"], predictor["scaleTarget"]) == (2, 6, 8)
    (application,) = plans.ray_serve(PLAN)["applications"]
    scaling = application["args"]["llm_configs"][0]["deployment_config"]["autoscaling_config"]
    assert scaling == {"min_replicas": 2, "max_replicas": 6, "target_ongoing_requests": 8}


def test_what_fits_has_no_fault() -> None:
    assert "&id" not in yaml.safe_dump_all(plans.kubernetes(PLAN))  # no references, which few people can read
    assert plans.faults(plans.kubernetes(PLAN)) == []


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("its own pods", lambda d, s, a: d["selector"]["matchLabels"].update(app="other")),
        ("reach nobody", lambda d, s, a: s.update(selector={"app": "prism"})),
        ("no container opens", lambda d, s, a: s["ports"][0].update(targetPort="web")),
        ("another name", lambda d, s, a: a["scaleTargetRef"].update(name="prism")),
        ("above its highest", lambda d, s, a: a.update(minReplicas=9)),
        ("while it loads", lambda d, s, a: d["template"]["spec"]["containers"][0].pop("readinessProbe")),
    ],
)
def test_what_does_not_fit_is_named(words: str, change) -> None:
    assert any(words in fault for fault in spoiled(change))


@pytest.mark.parametrize("wrong", [(0, 2, 1, 1), (3, 2, 1, 1), (1, 2, 0, 1), (1, 2, 1, 0)])
def test_a_plan_that_is_none_is_refused(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="lowest <= highest"):
        plans.Plan("a", "b", *wrong)


def test_without_the_program_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    assert plans.schema_verdict(tmp_path / "x.yaml") is None


@pytest.mark.skipif(shutil.which(plans.VALIDATOR) is None, reason="kubernetes-validate is not on this machine")
def test_kubernetes_own_schemas_accept_the_plan_and_refuse_a_typing_mistake(tmp_path: Path) -> None:
    file, documents = tmp_path / "plan.yaml", plans.kubernetes(PLAN)
    file.write_text(yaml.safe_dump_all(documents))
    assert plans.schema_verdict(file) == ""
    documents[0]["spec"]["replica"] = 3
    file.write_text(yaml.safe_dump_all(documents))
    assert "replica" in plans.schema_verdict(file)
