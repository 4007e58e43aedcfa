"""What a look of early bird at ResNet-50 costs, beside training on an image: CPU milliseconds, medians.

python tools/bench_look.py
"""

import statistics
import time

import torch
import torchvision
from torch.nn.functional import cross_entropy

from slimkit.channels import trace
from slimkit.methods import EarlyBird
from slimkit.training.penalty import gammas


def main() -> None:
    torch.set_num_threads(1)
    model = torchvision.models.resnet50().train()
    bird = EarlyBird(trace(model, torch.zeros(1, 3, 224, 224)), 0.5, watch=(0.3, 0.7))
    looks, steps = [], []
    images, labels = torch.randn(8, 3, 224, 224), torch.zeros(8, dtype=torch.long)
    for number in range(11):
        for _, gamma in gammas(model):
            gamma.data.uniform_(0, 1)
        began = time.process_time()
        bird.observe(model)
        looks.append(time.process_time() - began)
        if number < 3:
            began = time.process_time()
            cross_entropy(model(images), labels).backward()
            steps.append(time.process_time() - began)
    look, step = statistics.median(looks), statistics.median(steps) / len(images)
    count = sum(len(gamma) for _, gamma in gammas(model))
    print(
        f"ResNet-50, {count} gammas, {bird.graph.units} removable units, 3 ratios: a look takes {1e3 * look:.1f} ms "
        f"of CPU, training on an image {1e3 * step:.0f} ms; 8 looks are {8 * look / (1e4 * step):.2e} of an epoch of "
        "10,000 images"
    )


if __name__ == "__main__":
    main()
