"""Which GGUF files of a repository are a model, and what each of them is called: by names alone.

The names are those of llama.cpp's naming convention and of publishers: `NAME-QUANT.gguf`, in shards of
`-00001-of-0000N`, also in folders; `mmproj` in the name of a vision encoder; `mtp` and `nomtp` for files that have, or
lack, the MTP head, and `mtp-NAME.gguf` for the head alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Literal

from qwen35_gguf.errors import HubError
from qwen35_gguf.gguf_file.shards import SHARD_NAME
from qwen35_gguf.hub.names import SUFFIX, HubName
from qwen35_gguf.json_file import printable, some_of
from qwen35_gguf.units import format_size

QUANT = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|B?F16|FP16|F32|FP32|MXFP4\w*|NVFP4\w*))$", re.IGNORECASE | re.ASCII
)
FLOATS = ("BF16", "F16", "FP16", "F32", "FP32")
HEAD = re.compile(r"(?:^|[-._])(no-?mtp|mtp)(?=[-._]|$)", re.IGNORECASE)
ENCODER, IMATRIX, HEAD_ALONE = "mmproj", "imatrix", "mtp-"

Head = Literal["named", "unknown", "without"]
MOST_LISTED, MOST_CHARACTERS = 40, 1000  # names in a message, and of them
PREFERRED: tuple[Head, ...] = ("named", "unknown", "without")  # of files of one quant


@dataclass(frozen=True)
class Quant:
    """A text model of a repository: one file or all of its shards.

    Attributes:
        label: by which it is asked for: its quant, or the name of its file where others have that, too.
        files: paths in the repository, the first shard first.
        size: bytes of all of them.
        head: what the name tells about the MTP head.
        missing: shards that are not there.

    """

    label: str
    files: tuple[str, ...]
    size: int
    head: Head = "unknown"
    missing: int = 0

    @property
    def is_float(self) -> bool:
        """Whether its weights are not quantized."""
        return self.label.upper() in FLOATS

    def __str__(self) -> str:
        return f"{self.label} ({format_size(self.size)})"


@dataclass(frozen=True)
class ModelFiles:
    """The GGUF files of a repository.

    Attributes:
        quants: the text models, the largest first.
        encoders: paths of vision encoders.
        heads: paths of MTP heads alone.

    """

    quants: tuple[Quant, ...]
    encoders: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()


def model_files(files: Mapping[str, int]) -> ModelFiles:
    """Sort the files of a repository.

    Args:
        files: bytes by path.

    """
    models: dict[str, list[str]] = {}
    encoders, heads = [], []
    for path in sorted(path for path in files if path.lower().endswith(SUFFIX)):
        name = PurePosixPath(path).name.lower()
        if ENCODER in name:
            encoders.append(path)
        elif name.startswith(HEAD_ALONE):
            heads.append(path)
        elif IMATRIX not in name:
            shard = SHARD_NAME.fullmatch(path)
            models.setdefault(f"{shard['prefix']}/{shard['count']}" if shard else path, []).append(path)
    found = [_quant(paths, sum(files[path] for path in paths)) for paths in models.values()]
    kinds = Counter((one.label.lower(), one.head) for one in found)
    quants = [one if kinds[one.label.lower(), one.head] == 1 else _by_file(one) for one in found]
    return ModelFiles(tuple(sorted(quants, key=lambda one: -one.size)), tuple(encoders), tuple(heads))


def _quant(paths: list[str], size: int) -> Quant:
    shard = SHARD_NAME.fullmatch(paths[0])
    stem = stem_of(paths[0])
    label = QUANT.search(stem)
    head = HEAD.search(stem)
    kind: Head = "unknown" if head is None else "named" if head[1].lower() == "mtp" else "without"
    return Quant(
        label[1] if label else stem, tuple(paths), size, kind, int(shard["count"]) - len(paths) if shard else 0
    )


def _by_file(quant: Quant) -> Quant:
    return Quant(stem_of(quant.files[0]), quant.files, quant.size, quant.head, quant.missing)


def stem_of(path: str) -> str:
    """Return the name of a file without its folder, its ending and the number of its shard."""
    name = PurePosixPath(path).name
    shard = SHARD_NAME.fullmatch(name)
    return shard["prefix"] if shard else name[: -len(SUFFIX)]


def find_quant(name: HubName, quants: Iterable[Quant]) -> Quant:
    """Find a text model by its quant, the end of its name, or its file.

    Of several, the one with an MTP head is taken.

    Raises:
        HubError: there is none, shards of it are missing, or there are several; the message lists what there is.

    """
    known = list(quants)
    if not known:
        raise HubError(f"{name.repo}: has no GGUF file of a text model; name another repository, or convert it")
    wanted = (name.quant or "").lower().removesuffix(SUFFIX)
    named = [one for one in known if stem_of(one.files[0]).lower() == wanted]
    found = (
        named
        or [one for one in known if one.label.lower() == wanted]
        or [one for one in known if re.search(rf"[-._]{re.escape(wanted)}$", stem_of(one.files[0]).lower())]
    )
    found = preferred(found)
    if not found:
        raise HubError(f"{name.repo}: has no {printable(name.quant or '')}; use one of {listed(known)}")
    if len(found) > 1:
        raise HubError(f"{name.repo}: has several of {printable(name.quant or '')}; use one of {listed(found)}")
    if found[0].missing:
        raise HubError(f"{name}: {found[0].missing} of its shards are missing; use one of {listed(known)}")
    return found[0]


def preferred(quants: list[Quant]) -> list[Quant]:
    """Keep those of each quant that are likeliest to have an MTP head."""
    best: dict[str, Head] = {}
    for one in quants:
        current = best.get(one.label.lower(), PREFERRED[-1])
        best[one.label.lower()] = min(current, one.head, key=PREFERRED.index)
    return [one for one in quants if one.head == best[one.label.lower()]]


def candidates(quants: Iterable[Quant]) -> list[Quant]:
    """Return what may be chosen without asking, the best first: quants up to Q8_0, else floats.

    Floats are twice as slow as Q8_0, for differences that no benchmark finds.
    """
    whole = preferred([one for one in quants if not one.missing])
    quantized = [one for one in whole if not one.is_float]
    return sorted(quantized or whole, key=lambda one: -one.size)


def listed(quants: Iterable[Quant]) -> str:
    """Name quants for a message, as many as can be read."""
    names = [printable(name) for name in dict.fromkeys(one.label for one in quants if not one.missing)]
    ends = accumulate(len(name) for name in names[:MOST_LISTED])
    return some_of(names, sum(end <= MOST_CHARACTERS for end in ends)) or "none, all are incomplete"
