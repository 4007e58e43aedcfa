"""Which timm networks, and torchvision's for dense prediction, can be slimmed exactly, and what is kept and why.

    python tools/coverage_timm.py                    # one or two networks of every family tried
    python tools/coverage_timm.py res2net50_26w_4s   # those named

Half of every group is removed at random; the smaller network must compute what the masked one computes. Needs
`slimkit[timm]`; weights are random, at the smallest image that the network takes.
"""

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import takewhile

import torch
import torchvision
from torch import nn

from slimkit.channels import Graph, trace
from slimkit.errors import SlimkitError
from slimkit.selection.mask import Mask
from slimkit.surgery import proof

DENSE: dict[str, Callable[[], nn.Module]] = {
    "fcn_resnet50": lambda: _segmentation("fcn_resnet50"),
    "deeplabv3_mobilenet_v3_large": lambda: _segmentation("deeplabv3_mobilenet_v3_large"),
    "lraspp_mobilenet_v3_large": lambda: _segmentation("lraspp_mobilenet_v3_large"),
    "resnet50 with FPN": lambda: torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d
    ),
}
FAMILIES = """
bat_resnext26ts botnet26t_256 coatnet_nano_rw_224 convnext_atto convnextv2_atto cs3darknet_s cspdarknet53
cspresnet50 cspresnext50 darknet53 dla34 dm_nfnet_f0 dpn48b eca_nfnet_l0 ecaresnet26t edgenext_xx_small
efficientformer_l1 efficientnet_cc_b0_4e efficientnet_lite0 efficientvit_b0 ese_vovnet19b_dw fastvit_t8
fbnetc_100 gcresnet33ts gernet_s ghostnet_100 ghostnetv2_100 halonet26t hardcorenas_a hgnet_tiny hgnetv2_b0
hrnet_w18_small inception_next_tiny inception_resnet_v2 inception_v4 lambda_resnet26t lcnet_050 levit_128s
maxvit_rmlp_pico_rw_256 mixnet_s mobilenetv4_conv_small mobilenetv4_hybrid_medium mobileone_s0 mobilevit_xxs
mobilevitv2_050 nasnetalarge nf_resnet50 pit_ti_224 pnasnet5large poolformerv2_s12 rdnet_tiny regnetz_b16
repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_26w_4s res2next50 resnest14d resnetblur50 resnetv2_50
rexnet_100 selecsls42b semnasnet_075 seresnet50 shvit_s1 skresnet18 skresnext50_32x4d spnasnet_100
starnet_s1 swiftformer_xs tf_efficientnetv2_b0 tiny_vit_5m_224 tinynet_e tresnet_m visformer_tiny vovnet39a
xception41 xcit_nano_12_p16_224
"""


def _segmentation(name: str) -> nn.Module:
    auxiliary = {} if name.startswith("lraspp") else {"aux_loss": True}
    model: nn.Module = torchvision.models.get_model(name, weights=None, weights_backbone=None, **auxiliary)
    return model


def build(name: str) -> tuple[nn.Module, int]:
    """Return a network in eval mode, its BatchNorms random, and the side of its images."""
    if name in DENSE:
        model, side = DENSE[name](), 96
    else:
        import timm

        model = timm.create_model(name, pretrained=False)
        side = model.default_cfg["input_size"][1]
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval(), side


def smallest_image(model: nn.Module, side: int) -> torch.Tensor:
    """Return the smallest of some images, [1, 3, s, s], s <= side, on which the network runs."""
    for size in (*takewhile(lambda s: s < side, (64, 96, 128, 160, 192, 224)), side):
        image = torch.randn(1, 3, size, size)
        try:
            with torch.no_grad():
                model(image)
            return image
        except (RuntimeError, AssertionError, ValueError, IndexError):
            continue
    raise SlimkitError(f"runs on no image up to {side} x {side}")


def half(graph: Graph) -> Mask:
    """Return a mask that lacks a random half of every group."""
    generator = torch.Generator().manual_seed(0)
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.groups:
        order = torch.randperm(len(group.members), generator=generator)
        keep[group.members[order[: len(order) // 2]]] = False
    return Mask(keep)


def row(name: str) -> str:
    """Return a line: exact or not, the share that can be removed, what fails the proof, what is kept and why."""
    torch.manual_seed(0)
    model, side = build(name)
    image = smallest_image(model, side)
    start = time.process_time()
    graph = trace(model, image)
    seconds = time.process_time() - start
    mask = half(graph)
    error = proof.error_of(model, graph, mask, [image])
    failing = proof.failing_groups(model, graph, mask, [image]) if error > proof.TOLERANCE else []
    lost = sum(len(graph.groups[i].members) for i in failing)
    reasons: Counter[str] = Counter()
    for kept in graph.kept:
        if "reaches the output" not in kept.reason:
            reasons[kept.reason.split(" (in ")[0]] += kept.channels
    total = graph.units + reasons.total()
    verdict = "exact" if error <= proof.TOLERANCE else f"{lost} fail"
    share = (graph.units - lost) / max(total, 1)
    why = "; ".join(f"{channels} {reason}" for reason, channels in reasons.most_common(3))
    return f"| {name} | {image.shape[-1]} | {verdict} | {error:.0e} | {share:.0%} | {seconds:.2f} | {why} |"


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| network | image | proof | error | removable | seconds to trace | kept, and why |")
    print("|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or [*DENSE, *FAMILIES.split()]:
        try:
            print(row(name), flush=True)
        except (SlimkitError, RuntimeError) as error:
            print(f"| {name} | | {str(error).splitlines()[0]} | | | | |", flush=True)


if __name__ == "__main__":
    main()
