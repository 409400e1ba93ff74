"""corpus.py PARAMS ZIP: the sources of the packages that the parameters' `pydoc:` entries name, as one zip file.

It runs where all of them are installed. `embedmill` reads the file when EMBEDMILL_PYDOC names it, so that an image has
the corpus of the whole environment without that environment's size. Same packages, same bytes.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import yaml

from components.core.installed import STDLIB, find_package


def main(params: str, target: str) -> None:
    """Write the zip file. Exits with a message if a package is not installed."""
    entries = yaml.safe_load(Path(params).read_bytes())["ingest"]["sources"]
    packages = [find_package(name) or sys.exit(f"{name}: not installed") for name in sorted(_names(entries))]
    owners = {owner for package in packages for owner in package.version.split(", ")}
    files = {module.relative: module.read() for package in packages for module in package.modules}
    for distribution in metadata.distributions():
        if f"{distribution.name} {distribution.version}" in owners:
            files |= _description(distribution)
    with ZipFile(target, "w", ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            archive.writestr(ZipInfo(name), files[name], ZIP_DEFLATED)
    print(f"{target}: {len(files):,} files of {len(packages)} packages, {Path(target).stat().st_size / 1e6:.0f} MB")


def _names(entries: list[dict[str, object]]) -> set[str]:
    lists = [entry.get("packages", []) for entry in entries if entry["uri"] == "pydoc:"]
    return {str(name) for names in lists if isinstance(names, list) for name in names} - {STDLIB}


def _description(distribution: metadata.Distribution) -> dict[str, bytes]:
    """What is looked up of a distribution: its name, its version, the names of its files."""
    name, version = distribution.name, distribution.version
    folder = f"{re.sub(r'[-_.]+', '_', name)}-{version}.dist-info"
    record = re.sub(r",[^,\n]*,[^,\n]*$", ",,", distribution.read_text("RECORD") or "", flags=re.MULTILINE)
    return {
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{folder}/RECORD": record.encode(),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
