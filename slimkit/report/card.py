"""The card of a network in a repository: what it is, how good, how it is used; Markdown with a head in YAML."""

import json

from slimkit.report.table import comparison
from slimkit.report.verdict import verdict
from slimkit.results import Report

_PIPELINES = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
    "classify": "image-classification",  # as Ultralytics names its tasks
    "segment": "image-segmentation",
    "detect": "object-detection",
    "pose": "keypoint-detection",
}
_BY_METRIC = {"mask mAP50-95": "image-segmentation", "keypoint mAP50-95": "keypoint-detection"}  # of detectors
_SOURCES = ("torchvision", "zoo", "timm", "ultralytics")  # of networks that slimkit builds on a file's word


def card(report: Report, repository: str) -> str:
    """Return the card of a run.

    Args:
        report: of the run.
        repository: `owner/name`, for the code that fetches it.
    """
    said = verdict(report)
    task = report.usage.task if report.usage else None
    head = ["library_name: slimkit", "tags: [slimkit, pruning]"]
    judged = report.after.accuracy or report.before.accuracy
    pipeline = _BY_METRIC.get(judged.metric if judged else "") or _PIPELINES.get(task or "")
    head += [f"pipeline_tag: {pipeline}"] if pipeline else []
    rows = [f"| {' | '.join(cells)} |" for cells in comparison(report.before, report.after)]
    asked, made = json.dumps(repository), report.arch.name
    if ":" in made and made.partition(":")[0] not in _SOURCES:
        asked += f", arch={json.dumps(made)}"  # code of somebody's own, which has to be named
    code = ["from slimkit import hub", "", f"model = hub.pull({asked})  # a torch.nn.Module, in eval mode"]
    parts = [
        "\n".join(["---", *head, "---"]),
        f"# {repository.rpartition('/')[2]}",
        said.sentence,
        said.proof,
        "\n".join(["| | before | after | after / before |", "| --- | --- | --- | --- |", *rows]),
        "\n".join(["```python", *code, "```"]),
    ]
    if report.usage:
        used = json.dumps(report.usage.to_dict(), indent=1)
        parts += ["How it is used:", f"```json\n{used}\n```"]
    return "\n\n".join(parts) + "\n"
