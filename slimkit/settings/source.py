"""How a network in a file is read: no files, no torch."""

from dataclasses import dataclass, fields

from slimkit.settings.budget import parse_budget
from slimkit.settings.checks import flag, optional, pattern, text
from slimkit.settings.setting import Settings, setting


@dataclass(frozen=True, kw_only=True)
class SourceSpec(Settings):
    """How a checkpoint is read."""

    arch: str | None = setting(
        None,
        "resnet18, zoo:NAME, timm:NAME, package.module:factory or file.py:factory; default: recognised",
        optional(text),
    )
    trust_pickle: bool = setting(False, "unpickle the checkpoint, which can run any code that is in it", flag)
    max_memory: str | None = setting(
        None,
        "memory that reading the checkpoint may take; default: eight times its size, at least 2 GiB",
        optional(pattern(r"\d{1,9}(\.\d+)?[MGT]i?B", "an amount such as 500MB or 16GiB")),
    )

    @property
    def memory(self) -> int | None:
        """`max_memory` in bytes."""
        return None if self.max_memory is None else int(parse_budget(self.max_memory, "bytes").value)


READING = tuple(entry.name for entry in fields(SourceSpec))
