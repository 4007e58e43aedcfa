"""Which networks of other libraries can be slimmed exactly, how much of their work, and what is kept and why.

    python tools/coverage_families.py ultralytics            # every version and task, at its smallest
    python tools/coverage_families.py detection segmentation_models huggingface
    python tools/coverage_families.py ultralytics yolo11n-seg

Half of every group is removed at random; the smaller network must compute what the masked one computes. Weights are
random. The proven share is of the channels of which half went and the proof passed; the removable share of the work is
what is left out when every group is brought down to one channel. Where the error in single precision could be
rounding, it is that in double precision.
"""

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from coverage_timm import half
from torch import nn

from slimkit import trace
from slimkit.errors import SlimkitError
from slimkit.example import Example, call, mapped, of_batch
from slimkit.surgery import proof

Made = tuple[nn.Module, Example]


def yolo(name: str) -> Made:
    from ultralytics import YOLO

    from slimkit.models import ultralytics

    return ultralytics.as_maps(YOLO(f"{name}.yaml", verbose=False).model.float()).model, torch.randn(1, 3, 128, 128)


def detector(name: str) -> Made:
    from torchvision.models import detection

    from slimkit.models.detectors import Heads

    net = getattr(detection, name)(weights=None, weights_backbone=None)
    return Heads(net).eval(), torch.randn(1, 3, 320, 320)


def segmenter(name: str) -> Made:
    import segmentation_models_pytorch

    net = getattr(segmentation_models_pytorch, name)("resnet18", encoder_weights=None, classes=4)
    return net.eval(), torch.randn(1, 3, 128, 128)


def hugging_face(name: str) -> Made:
    import transformers

    config = getattr(transformers, f"{name}Config")()
    net = getattr(transformers, f"{name}ForImageClassification")(config)
    side = {"Levit": 224}.get(name, 128)  # its attention is made for one size
    return net.eval(), {"pixel_values": torch.randn(1, config.num_channels, side, side)}


def of_torchvision(name: str) -> Made:
    import torchvision

    settings = {"weights_backbone": None} if name in SEMANTIC else {}
    return torchvision.models.get_model(name, weights=None, **settings).eval(), torch.randn(1, 3, 96, 96)


def video(name: str) -> Made:
    from torchvision.models import get_model

    return get_model(name, weights=None).eval(), torch.randn(1, 3, 8, 64, 64)


def optical_flow(name: str) -> Made:
    from torchvision.models import get_model

    return get_model(name, weights=None).eval(), (torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128))


ULTRALYTICS = """
yolov5n yolov8n yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-cls yolov8n-p2 yolov8n-p6 yolov9t yolov9c-seg yolov9e
yolov10n yolov10b yolo11n yolo11n-seg yolo11n-pose yolo11n-obb yolo11n-cls yolo12n yolo12n-seg yolo12n-pose yolo12n-cls
yolo26n yolo26n-seg yolo26n-pose yolo26n-cls yolov3-tiny yolov6n
"""
DETECTION = """
fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 retinanet_resnet50_fpn
retinanet_resnet50_fpn_v2 fcos_resnet50_fpn ssd300_vgg16 ssdlite320_mobilenet_v3_large maskrcnn_resnet50_fpn
keypointrcnn_resnet50_fpn
"""
SEGMENTATION = "Unet UnetPlusPlus FPN PSPNet DeepLabV3 DeepLabV3Plus Linknet MAnet PAN UPerNet Segformer"
SEMANTIC = "fcn_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large"
VIDEO = "r3d_18 mc3_18 r2plus1d_18"
OPTICAL_FLOW = "raft_small"
HUGGING_FACE = "ResNet RegNet MobileNetV1 MobileNetV2 EfficientNet ConvNext ConvNextV2 Levit PoolFormer"
FAMILIES: dict[str, tuple[str, Callable[[str], Made]]] = {
    "ultralytics": (ULTRALYTICS, yolo),
    "detection": (DETECTION, detector),
    "segmentation_models": (SEGMENTATION, segmenter),
    "segmentation": (SEMANTIC, of_torchvision),
    "video": (VIDEO, video),
    "optical_flow": (OPTICAL_FLOW, optical_flow),
    "huggingface": (HUGGING_FACE, hugging_face),
}


def liven(model: nn.Module, example: Example) -> None:
    """Give BatchNorms scales of their own and the statistics of noise, so that outputs depend on all of a network."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        call(model, of_batch(mapped(example, torch.randn_like), 4))
    model.eval()


def row(name: str, make: Callable[[str], Made]) -> str:
    """Return a line: exact or not, shares, what is kept and why."""
    torch.manual_seed(0)
    model, example = make(name)
    liven(model, example)
    start = time.process_time()
    graph = trace(model, example)
    seconds = time.process_time() - start
    mask = half(graph)
    error = proof.evidence_for(model, graph, mask, [example]).error
    failing = proof.failing_groups(model, graph, mask, [example]) if error > proof.TOLERANCE else []
    lost = {int(unit) for i in failing for unit in graph.groups[i].members}
    reasons: Counter[str] = Counter()
    for kept in graph.kept:
        if not kept.output:
            reasons[kept.reason.split(" (in ")[0]] += kept.channels
    total = graph.units + reasons.total()
    least = torch.ones(graph.units, dtype=torch.bool)
    for number, group in enumerate(graph.groups):
        if number not in failing:
            least[group.members[1:]] = False
    work = 1 - graph.macs(least) / graph.macs(torch.ones_like(least))
    why = "; ".join(f"{channels} {reason}" for reason, channels in reasons.most_common(3))
    share = (graph.units - len(lost)) / max(total, 1)
    said = "exact" if error <= proof.TOLERANCE else f"{len(lost)} fail"
    return f"| {name} | {said} | {error:.0e} | {share:.0%} | {work:.0%} | {seconds:.2f} | {why} |"


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| network | proof | error | proven channels | removable MACs | seconds to trace | kept, and why |")
    print("|---|---|---|---|---|---|---|")
    words = sys.argv[1:]
    for family in [word for word in words if word in FAMILIES] or FAMILIES:
        names, make = FAMILIES[family]
        for name in [word for word in words if word not in FAMILIES] or names.split():
            try:
                print(row(name, make), flush=True)
            except (SlimkitError, RuntimeError) as error:
                print(f"| {name} | {str(error).splitlines()[0]} | | | | | |", flush=True)


if __name__ == "__main__":
    main()
