"""Train an SSDLite on made shapes with torchvision alone, for the figures of docs/how-to/task.md.

    python tools/made_detector.py shapes ssdlite.pt

Writes the folder, as COCO has it, and a state dict; 20 epochs of 600 pictures take 20 minutes of one core.
"""

import sys
from pathlib import Path

import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

sys.path.insert(0, str(Path(__file__).parents[1]))

from slimkit import data
from slimkit.provenance import Provenance
from slimkit.tasks import DETECTION
from tests import boxes

EPOCHS, BATCH, PICTURES = 20, 16, {"train": 600, "val": 150, "test": 300}


def main(folder: Path, checkpoint: Path) -> None:
    boxes.coco(folder, PICTURES)
    torch.manual_seed(0)
    train = data.open(f"folder:{folder}", task=DETECTION, own=Provenance(classes=4)).train
    net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).train()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-4)
    steps = EPOCHS * (PICTURES["train"] // BATCH)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for epoch in range(EPOCHS):
        losses = []
        for images, targets in train.batches(BATCH, seed=0, epoch=epoch, augment=True):
            loss = sum(net(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pace.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {sum(losses) / len(losses):.3f}", flush=True)
        torch.save(net.state_dict(), checkpoint)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
