"""`robustkit.verify`: whether files are what robustkit wrote."""

from pathlib import Path

from robustkit.errors import InputError, RecordError
from robustkit.files import given_path
from robustkit.integrity import FileCheck, check_files


def verify(*places: Path | str) -> FileCheck:
    """Check that records, audits, studies, checkpoints and reports are as they were written.

        found = robustkit.verify("runs", "audit")
        found.intact        # whether nothing is damaged

    Args:
        places: folders, and everything inside them, or files.

    Raises:
        RecordError: a folder is not there, or holds not a file that robustkit wrote.
    """
    if not places:
        raise InputError("name the folders or files to check")
    paths = [given_path(place, "a folder or file to check") for place in places]
    found = {path: tuple(check_files(path)) for path in paths}
    for place, files in found.items():
        if not files:
            raise RecordError(f"{place}: not a file that robustkit wrote")
    return FileCheck(found)
