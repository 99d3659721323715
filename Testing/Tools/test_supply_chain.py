"""The lock, the page of licenses and the bill of materials cover what is installed."""

import json
import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from Tools.supply_chain import (
    PAGE,
    PROGRAM,
    ROOT,
    UNLOCKED,
    bill_of_materials,
    check,
    dependencies,
    locked,
)


def test_the_lock_has_the_versions_of_the_tests():
    """Run `python Testing/Tools/supply_chain.py lock` if not."""
    text = (ROOT / "Testing" / "constraints.txt").read_text(encoding="utf-8")
    pinned = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    }
    found = locked()
    assert {name: version for name, (version, _) in found.items() if name in pinned} == {
        name: version for name, version in pinned.items() if name in found
    }
    assert set(found) <= set(pinned)
    assert all(hashes for _, hashes in found.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    direct = [*project["dependencies"], *extras["torch"], *extras["test"], *extras["dev"]]
    names = {canonicalize_name(Requirement(one).name) for one in direct} - {PROGRAM}
    assert {name for name in names if not UNLOCKED.match(f"{name}==")} <= set(found)


def test_a_file_that_is_not_locked_is_found(tmp_path):
    version, hashes = locked()["numpy"]

    def report(sha256: str) -> list[str]:
        item = {
            "metadata": {"name": "NumPy", "version": version},
            "download_info": {"url": "there", "archive_info": {"hashes": {"sha256": sha256}}},
        }
        (tmp_path / "report.json").write_text(json.dumps({"install": [item]}))
        return check(tmp_path / "report.json")

    assert report(min(hashes)) == []
    assert report("0" * 64) == [f"numpy {version}: there"]


def test_the_bill_names_every_dependency():
    bill = bill_of_materials()
    components = {one["name"]: one for one in bill["components"]}
    assert set(components) == set(dependencies())
    assert {"numpy", "torch", "transformers", "simpleitk", "pydicom"} <= set(components)
    assert components["numpy"]["purl"].startswith("pkg:pypi/numpy@")
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill == bill_of_materials()


def test_every_dependency_has_a_license_on_the_page():
    """Run `python Testing/Tools/supply_chain.py licenses` if not."""
    rows = re.findall(r"^\| ([\w-]+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    stated = dict(rows)
    assert set(dependencies()) <= set(stated)
    assert "not stated" not in stated.values()
