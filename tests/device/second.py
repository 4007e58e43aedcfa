"""A second device for tests, where there is no GPU: `second`, built by the C++ compiler that is there."""

import subprocess
import types
from pathlib import Path

import torch
from torch.utils.backend_registration import generate_methods_for_privateuse1_backend, rename_privateuse1_backend

NAME = "second"


def build(folder: Path, compiler: str = "c++") -> Path:
    """Compile the device; half a minute."""
    out = folder / "second.so"
    source, home = Path(__file__).with_name("second.cpp"), Path(torch.__file__).parent
    paths = [f"-I{home / 'include'}", f"-I{home / 'include/torch/csrc/api/include'}", f"-L{home / 'lib'}"]
    libraries = ["-ltorch", "-ltorch_cpu", "-lc10"]
    command = [compiler, "-O0", "-std=c++20", "-shared", "-fPIC", str(source), *paths, *libraries, "-o", str(out)]
    subprocess.run(command, check=True)
    return out


def load(library: Path) -> torch.device:
    """Make the device known to PyTorch, for the life of this process."""
    torch.ops.load_library(str(library))
    rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    known = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_rng_state": lambda device=0: torch.get_rng_state(),
        "set_rng_state": lambda state, device=0: torch.set_rng_state(state),
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "_is_in_bad_fork": lambda: False,
        "get_amp_supported_dtype": lambda: [torch.bfloat16],
    }
    vars(module).update(known)
    torch._register_device_module(NAME, module)
    generate_methods_for_privateuse1_backend(for_storage=True)
    return torch.device(NAME)
