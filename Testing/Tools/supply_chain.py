"""What the program is made of: locked hashes, licenses, and a bill of materials (CycloneDX).

    python Testing/Tools/supply_chain.py lock             writes Testing/requirements.lock by uv
    python Testing/Tools/supply_chain.py check REPORT     compares a report of pip with the lock
    python Testing/Tools/supply_chain.py licenses         writes Resources/Docs/licenses.md
    python Testing/Tools/supply_chain.py sbom             prints the bill of materials as JSON

Licenses and the bill are of the packages that the program needs where this runs, with the extra
`torch`; those that only tests and benchmarks need are locked, but are no part of it.
"""

import json
import re
import subprocess
import sys
import uuid
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from SpatialARAnomalyLib import __version__

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "Testing" / "requirements.lock"
PAGE = ROOT / "Resources" / "Docs" / "licenses.md"
PROGRAM = "spatial-ar-anomaly"

UNLOCKED = re.compile(r"^(torch|triton|nvidia|cuda)(-|==)")
"""PyTorch and its CUDA libraries: a site chooses its own build, from another index."""


def locked() -> dict[str, tuple[str, set[str]]]:
    """Return version and SHA-256 hashes by the name of every locked package."""
    found = {}
    for block in re.split(r"\n(?=\w)", LOCK.read_text(encoding="utf-8")):
        if match := re.match(r"([\w.-]+)==(\S+)", block):
            hashes = set(re.findall(r"sha256:([0-9a-f]{64})", block))
            found[canonicalize_name(match[1])] = (match[2], hashes)
    return found


def write_lock() -> None:
    """Resolve everything that CI installs, to the versions in `Testing/constraints.txt`."""
    done = subprocess.run(
        ["uv", "pip", "compile", "pyproject.toml", "--extra", "dev", "-c",
         "Testing/constraints.txt", "--generate-hashes", "--python-version", "3.11",
         "--no-header", "--no-annotate", "--quiet"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    blocks = re.split(r"\n(?=\w)", done.stdout.strip())
    kept = [block for block in blocks if not UNLOCKED.match(block)]
    head = "# By Testing/Tools/supply_chain.py; PyTorch comes from another index.\n"
    LOCK.write_text(head + "\n".join(kept) + "\n", encoding="utf-8")


def check(report: Path) -> list[str]:
    """Return what pip would install (`pip install --dry-run --report`) that is not locked."""
    known = locked()
    wrong = []
    for item in json.loads(report.read_text(encoding="utf-8"))["install"]:
        name = canonicalize_name(item["metadata"]["name"])
        if name == PROGRAM or UNLOCKED.match(f"{name}=="):
            continue
        sha256 = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if name not in known or sha256 not in known[name][1]:
            wrong.append(f"{name} {item['metadata']['version']}: {item['download_info']['url']}")
    return wrong


def dependencies() -> dict[str, Distribution]:
    """Return the installed packages that the program needs, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(PROGRAM, {"torch"})]
    while waiting:
        name, extras = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform
        for text in package.requires or []:
            one = Requirement(text)
            wanted = one.marker is None or any(
                one.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            )
            needed = canonicalize_name(one.name)
            if wanted and needed not in found and needed != PROGRAM:
                try:
                    found[needed] = distribution(needed)
                except PackageNotFoundError:
                    continue
                waiting.append((needed, set(one.extras)))
            elif wanted and needed == PROGRAM:
                waiting.append((PROGRAM, set(one.extras) - extras))
    return dict(sorted(found.items()))


def license_of(package: Distribution) -> str:
    """Return the license that a package states, in a few words."""
    stated = package.metadata
    if text := stated.get("License-Expression"):
        return text
    classifiers = stated.get_all("Classifier") or []
    named = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License ::")]
    if named and named != ["OSI Approved"]:
        return ", ".join(named)
    first = (stated.get("License") or "").strip().splitlines()
    return first[0][:60] if first else "not stated"


def licenses_page() -> str:
    """Return the page of licenses, without versions, so that it is the same on every machine."""
    rows = [f"| {name} | {license_of(package)} |" for name, package in dependencies().items()]
    return "\n".join(
        [
            "# Licenses of what the program needs",
            "",
            "Made by `Testing/Tools/supply_chain.py` from the packages' own metadata, for Linux",
            "with PyTorch's CPU build; a build for CUDA adds NVIDIA's libraries under their own",
            "terms. DINOv3 weights, which are no part of the program, have",
            "[Meta's license](encoders.md).",
            "",
            "| package | license |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )


def bill_of_materials() -> dict[str, object]:
    """Return the bill of materials in CycloneDX 1.5."""
    known = locked()
    components = []
    for name, package in dependencies().items():
        version = package.version
        component: dict[str, object] = {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "licenses": [{"license": {"name": license_of(package)}}],
        }
        if name in known and known[name][0] == version:
            content = sorted(known[name][1])
            # Of all its files at the index: which one is installed depends on the platform.
            component["properties"] = [{"name": "pypi:sha256", "value": one} for one in content]
        components.append(component)
    identity = json.dumps([component["bom-ref"] for component in components])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, identity)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": PROGRAM,
                "name": PROGRAM,
                "version": __version__,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": [
            {"ref": PROGRAM, "dependsOn": [component["bom-ref"] for component in components]}
        ],
    }


def main() -> None:
    """Do what the first argument says."""
    match sys.argv[1:]:
        case ["lock"]:
            write_lock()
        case ["check", report]:
            wrong = check(Path(report))
            print(*wrong or ["All files are those of the lock."], sep="\n")
            sys.exit(bool(wrong))
        case ["licenses"]:
            PAGE.write_text(licenses_page(), encoding="utf-8")
        case ["sbom"]:
            print(json.dumps(bill_of_materials(), indent=1))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
