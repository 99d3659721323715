"""What the section *Set-up* says: states, outcomes, and diagnostics to be copied."""

from typing import Any

import slicer
from slicer.i18n import tr as _

from ..service.packages import PackageCheck, PackageState
from .ErrorWords import inOneLine
from .Installation import InstallOutcome
from .Quantities import sizeText
from .Redaction import withoutPlaces


def stateText(check: PackageCheck, *, tried: bool) -> str:
    """The state of a package in a word or two."""
    if check.state is PackageState.READY and not tried:
        return _("installed")
    return {
        PackageState.READY: _("works"),
        PackageState.MISSING: _("missing"),
        PackageState.OTHER_VERSION: _("other version"),
        PackageState.BROKEN: _("cannot be loaded"),
    }[check.state]


def summary(checks: tuple[PackageCheck, ...], *, tried: bool) -> str:
    """One sentence about all packages."""
    missing = [one.package for one in checks if one.state is not PackageState.READY]
    if missing:
        return _("{count} of {all} packages cannot be used yet: {names}.").format(
            count=len(missing), all=len(checks), names=", ".join(missing)
        )
    if tried:
        return _("Everything is installed and works.")
    return _("Everything is installed. Check again tries it.")


def devicesText(probed: dict[str, Any] | None) -> str:
    """The devices that torch can compute on, and their memory."""
    if probed is None:
        return _("Devices: not looked for yet.")
    parts = []
    for one in probed["devices"]:
        size, free = one["memory_bytes"], one["free_bytes"]
        if size is None or free is None:
            parts.append(_("{device}: {name}").format(device=one["device"], name=one["name"]))
        else:
            parts.append(
                _("{device}: {name}, {size} of memory, {free} free").format(
                    device=one["device"],
                    name=one["name"],
                    size=sizeText(size),
                    free=sizeText(free),
                )
            )
    return "\n".join(parts)


def outcomeText(outcome: InstallOutcome, missing: tuple[PackageCheck, ...]) -> str:
    """How an installation went, and what to do now."""
    sentences = []
    if outcome.changed:
        changes = ", ".join(
            f"{name} {before} → {after or _('removed')}"
            for name, (before, after) in outcome.changed.items()
        )
        sentences.append(
            _(
                "⚠ Packages that were to stay have changed: {changes}. Slicer may not start again: "
                "install Slicer anew if it does not, and please report this."
            ).format(changes=changes)
        )
    if outcome.error is not None:
        sentences.append("⚠ " + inOneLine(outcome.error))
    names = ", ".join(one.package for one in missing)
    if not missing:
        sentences.append(_("Everything is installed and works."))
    elif outcome.added:
        sentences.append(
            _("Installed in part: {added}. Still missing: {names}.").format(
                added=", ".join(outcome.added[:8]), names=names
            )
        )
    elif outcome.error is None:
        sentences.append(_("Still missing: {names}.").format(names=names))
    else:
        sentences.append(_("Nothing was changed."))
    if outcome.restart:
        sentences.append(_("Restart Slicer: it may have the old PyTorch in memory."))
    return " ".join(sentences)


def diagnostics(
    checks: tuple[PackageCheck, ...], probed: dict[str, Any] | None, device: str
) -> str:
    """What helps whoever is asked for help: versions and states; no names and no places."""
    lines = [
        f"SpatialARAnomaly in Slicer {slicer.app.applicationVersion}",
        f"Python {probed['python']}, {probed['platform']}" if probed else "not tried",
        f"device setting: {device}",
    ]
    for check in checks:
        found = check.found or "-"
        lines.append(f"{check.package} {found} (needed {check.needed}): {check.state.value}")
        if check.error:
            lines.append(f"    {check.error}")
    if probed is not None:
        for name in ("numpy", "scipy", "SimpleITK", "pydicom"):
            lines.append(f"{name} {probed['packages'].get(name)}")
        lines += devicesText(probed).splitlines()
    return withoutPlaces("\n".join(lines))
