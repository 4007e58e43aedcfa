"""Write slimkit/models/signatures.json.xz: tensor names and shapes by which state dicts are recognised.

Covers all classifiers of torchvision, with and without auxiliary heads, and the zoo. Run it again when a
network of the zoo or the version of torchvision changes: python tools/make_signatures.py
"""

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchvision import models

from slimkit import zoo
from slimkit.models import reference, signatures

TARGET = Path(signatures.__file__).with_name("signatures.json.xz")


def architectures() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every architecture of the index with the arguments that change its tensors."""
    for name in models.list_models(module=models):
        if name in ("googlenet", "inception_v3"):
            yield f"torchvision:{name}", {"aux_logits": True}
            yield f"torchvision:{name}", {"aux_logits": False}
        else:
            yield f"torchvision:{name}", {}
    for name in zoo.ARCHITECTURES:
        yield f"zoo:{name}", {}


def main() -> None:
    """Build every network on the meta device and write the index."""
    index = [signatures.signature(reference.parse(name), given) for name, given in architectures()]
    text = json.dumps([entry.as_json() for entry in index], separators=(",", ":"))
    TARGET.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{TARGET.name}: {len(index)} signatures, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
