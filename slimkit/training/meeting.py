"""How processes that a launcher has started find each other, though others have died in their places.

The launcher's store lives on when it starts processes again, with the addresses that the dead ones left there; counts
of restarts do not tell new from old, as those of two hosts may differ. So the first process calls each of the others
by a name that this one has just made up, and they talk under the name that all of them have answered.
"""

import os
import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store  # not there where torch was built without

_PATIENCE = timedelta(minutes=30)  # as PyTorch's own: another host may be long in coming
_PAUSE = 0.05  # seconds


def place() -> "Store | None":
    """Return a part of the launcher's store that only the processes that are alive know; None where it has no store.

    Raises:
        TimeoutError: the others did not come.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None  # the first process then opens a store of its own
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=_PATIENCE, wait_for_workers=False
    )
    return PrefixStore(meet(store, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])), store)


def meet(store: "Store", rank: int, ranks: int, patience: timedelta = _PATIENCE) -> str:
    """Return a name that all processes which are here now have agreed on, and none that has died.

    Raises:
        TimeoutError: the others did not come.
    """
    own, until = uuid.uuid4().hex, time.monotonic() + patience.total_seconds()
    if rank:
        store.set(f"here/{rank}", own)
    while time.monotonic() < until:
        name = _answer(store, rank, own) if rank else _call(store, ranks, own)
        if name is not None:
            return name
        time.sleep(_PAUSE)  # in Python, so that it can be terminated
    raise TimeoutError("the others did not come")


def _call(store: "Store", ranks: int, name: str) -> str | None:
    """Call, as the first process, all who say that they are here; return the name when all have answered it."""
    answered = 1
    for rank in range(1, ranks):
        who = _read(store, f"here/{rank}")
        if who is not None:
            store.set(f"call/{who}", name)
            answered += _read(store, f"answer/{name}/{rank}") == who
    if answered < ranks:
        return None
    store.set(f"begin/{name}", "")
    return name


def _answer(store: "Store", rank: int, own: str) -> str | None:
    """Answer the latest call, which a process that has died since may have made; return its name when it begins."""
    name = _read(store, f"call/{own}")
    if name is None:
        return None
    store.set(f"answer/{name}/{rank}", own)
    return name if store.check([f"begin/{name}"]) else None


def _read(store: "Store", key: str) -> str | None:
    return store.get(key).decode() if store.check([key]) else None
