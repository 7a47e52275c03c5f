"""Tell whether names of files that others wrote, in lists, indexes and repositories, stay within their folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

LONGEST_NAME = 255  # bytes of a file's or a folder's, which is what file systems hold


def is_inside(name: str, *, nested: bool = True) -> bool:
    r"""Tell whether a path names something within the folder that it is relative to, on every system.

    On Windows `\` separates names, too, and `C:name` is on another drive; such paths are nowhere taken as inside.

    Args:
        name: the path.
        nested: it may be in a folder within the folder.

    """
    path = PureWindowsPath(name)
    if not path.parts or path.drive or path.root or ".." in path.parts:
        return False
    return nested or path.parts == (name,)


def can_be_stored(name: str) -> bool:
    """Tell whether a path is inside, and is one that file systems hold and one line shows."""
    return (
        is_inside(name)
        and name.isprintable()  # neither line ends nor halves of surrogate pairs
        and all(len(part.encode()) <= LONGEST_NAME for part in PurePosixPath(name).parts)
    )


def is_file(path: Path) -> bool:
    """Tell whether a file is there; of a name that no file can have, none is."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
