"""Offline kits are complete or absent, checked before use, and change no other packages."""

import json
import os
import shutil
import sys

import pytest
from engine.dinov3_examples import save_transformers, vit
from packaging.tags import platform_tags
from service.small_site import run
from service.wheel_examples import ThrowAwayPython, make_wheel, use_index
from SpatialARAnomalyLib.engine.errors import Cancelled, OutputError, SetupError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.encoders.hub import cached_folder
from SpatialARAnomalyLib.service.setup import kit as offline_kit
from SpatialARAnomalyLib.service.setup.kit import (
    KitSpec,
    install_kit,
    install_weights,
    make_kit,
    uv_platform,
)
from SpatialARAnomalyLib.service.setup.kit import platform_tags as older_tags
from SpatialARAnomalyLib.service.setup.kit_manifest import (
    MANIFEST,
    check_fits,
    read_manifest,
    verify_kit,
)
from SpatialARAnomalyLib.service.setup.packages import installed_versions

HELD = {"numpy": "2.4.6", "setuptools": "82.0.1"}
HUB_ID = "timm/vit_tiny_for_tests"
COMMIT = "c0ffee"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index where one package needs others on one system only, and the other machine's numpy."""
    folder = tmp_path / "the index"
    make_wheel(
        folder, "alpha", "1.5", "beta[fast]>=1", "numpy>=2", "gamma; sys_platform == 'win32'",
        "delta; sys_platform == 'linux'",
    )  # fmt: skip
    make_wheel(folder, "alpha", "2.0", "numpy>=3")  # too new for the other machine
    make_wheel(folder, "beta", "1.0", "epsilon; extra == 'fast'", "zeta; extra == 'slow'")
    for name in ("gamma", "delta", "epsilon", "zeta"):
        make_wheel(folder, name, "1.0")
    make_wheel(folder, "numpy", "2.4.6")
    make_wheel(folder, "numpy", "3.0")
    use_index(folder, monkeypatch)
    return folder


def spec(platform="win_amd64", **more):
    return KitSpec(**{"platform": platform, "requirements": ("alpha>=1",)} | more)


def kit_of(folder, wanted=None, held=HELD, **more):
    return make_kit(folder, wanted or spec(), SilentReporter(), held=held, **more)


def names_in(folder):
    return sorted(path.name.split("-")[0] for path in (folder / "wheels").iterdir())


def here(**more):
    """A kit for the Python that runs the tests."""
    import sys

    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    platform = next(tag for tag in platform_tags() if not tag.startswith("linux_"))
    return spec(platform, python_version=version, **more)


@pytest.mark.parametrize(
    ("platform", "others"),
    [("win_amd64", ["gamma"]), ("macosx_14_0_arm64", [])],
)
def test_a_kit_has_what_the_other_machine_lacks_and_no_more(index, tmp_path, platform, others):
    folder = tmp_path / "kits é" / "kit"
    manifest = kit_of(folder, spec(platform))
    assert names_in(folder) == sorted(["alpha", "beta", "epsilon", *others])
    assert "alpha==1.5" in manifest.wheels  # 2.0 would replace numpy
    assert verify_kit(folder, SilentReporter()) == manifest == read_manifest(folder)
    assert manifest.platforms[0] == platform
    assert list(folder.parent.iterdir()) == [folder]
    assert platform in (folder / "README.txt").read_text()


@pytest.mark.slow
def test_an_interrupted_kit_is_resumed(index, tmp_path, monkeypatch):
    folder = tmp_path / "kit"

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(offline_kit, "file_sha256", full)
        with pytest.raises(OutputError, match="No space left"):
            kit_of(folder, spec("manylinux_2_28_x86_64"))
    assert not folder.exists()
    partial = folder.with_name("kit.partial")
    collected = {path.name: path.stat().st_mtime_ns for path in (partial / "wheels").iterdir()}
    kit_of(folder, spec("manylinux_2_28_x86_64"))
    assert not partial.exists()
    # What was collected was not collected again.
    times = {path.name: path.stat().st_mtime_ns for path in (folder / "wheels").iterdir()}
    assert times == collected
    with pytest.raises(OutputError, match="exists already"):
        kit_of(folder)


@pytest.mark.slow
def test_wheels_for_another_machine_are_not_reused(index, tmp_path):
    folder, partial = tmp_path / "kit", tmp_path / "kit.partial"

    class Stopped(SilentReporter):
        def stage(self, name, index, of):
            if name == "weights":
                raise Cancelled

    with pytest.raises(Cancelled):
        make_kit(folder, spec("win_amd64"), Stopped(), held=HELD)
    (old,) = partial.glob("wheels/alpha-*.whl")
    # The newest of its name, as one that was collected last would be.
    os.rename(old, old.with_name("alpha-1.5-cp312-cp312-win_amd64.whl"))
    os.utime(old.with_name("alpha-1.5-cp312-cp312-win_amd64.whl"), (2**32, 2**32))
    kit_of(folder, spec("macosx_14_0_arm64"))
    assert [path.name for path in folder.glob("wheels/alpha-*")] == [old.name]
    assert verify_kit(folder, SilentReporter())
    assert not list(folder.glob("*.tmp"))


def test_a_cancelled_kit_does_not_exist(index, tmp_path):
    class Impatient(SilentReporter):
        def check_cancelled(self):
            raise Cancelled

    with pytest.raises(Cancelled):
        make_kit(tmp_path / "kit", spec(), Impatient(), held=HELD)
    assert not (tmp_path / "kit").exists()


@pytest.mark.slow
def test_an_interrupted_kit_keeps_its_versions(index, tmp_path, monkeypatch):
    """A newer release in between makes no gigabytes be downloaded again."""
    folder = tmp_path / "kit"

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(offline_kit, "file_sha256", full)
        with pytest.raises(OutputError, match="No space left"):
            kit_of(folder)
    make_wheel(index, "alpha", "1.6")
    assert kit_of(folder).wheels[0] == "alpha==1.5"


def test_requirements_without_a_solution_are_refused_with_the_reason(index, tmp_path):
    (index / "alpha-1.5-py3-none-any.whl").unlink()
    with pytest.raises(SetupError) as caught:
        kit_of(tmp_path / "kit")
    assert caught.value.code == "kit-unresolved"
    reason = " ".join(str(caught.value).split())  # uv breaks its lines
    assert "all versions of alpha depend on numpy>=3 and numpy==2.4.6" in reason
    # A marker that only the other machine meets counts as well.
    make_wheel(index, "alpha", "2.0", "numpy>=3; os_name == 'nt'")
    assert kit_of(tmp_path / "kit", spec("macosx_14_0_arm64")).wheels == ("alpha==2.0",)
    with pytest.raises(SetupError, match=r"numpy.*>=3\s+and\s+numpy.*==2\.4\.6"):
        kit_of(tmp_path / "other kit")


def test_torch_comes_from_the_index_of_its_build_and_nothing_else_does(
    index, tmp_path, monkeypatch
):
    builds = tmp_path / "builds é" / "cu126"
    for name, version in (("torch", "2.9+cu126"), ("beta", "9.0+cu126")):
        tag = "cp312-cp312-win_amd64"
        wheel = make_wheel(builds / name, name, version, "epsilon", tag=tag)
        (builds / name / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    make_wheel(index, "torch", "2.10", "zeta")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "empty").as_uri())
    (tmp_path / "empty").mkdir()
    wanted = spec(
        build="cu126", torch_index=builds.parent.as_uri(), requirements=("torch>=2.4", "beta")
    )
    manifest = kit_of(tmp_path / "kit", wanted)
    assert manifest.wheels == ("beta==1.0", "epsilon==1.0", "torch==2.9+cu126")
    assert names_in(tmp_path / "kit") == ["beta", "epsilon", "torch"]


def test_a_failure_of_pip_names_the_requirements_that_disagree():
    """As pip prints them; a link that it looked at is no cause."""
    lines = [
        "Looking in links: kit", "ERROR: Cannot install torch==2.13.0", "",
        "The conflict is caused by:", "    torch 2.13.0 depends on setuptools>=77",
        "    The user requested (constraint) setuptools==65.5", "ERROR: ResolutionImpossible",
    ]  # fmt: skip
    fails = [sys.executable, "-c", f"print({chr(10).join(lines)!r}); raise SystemExit(1)"]
    with pytest.raises(SetupError) as caught:
        offline_kit._run(fails, SilentReporter(), "pip-failed", "pip could not.")
    assert str(caught.value).splitlines() == ["pip could not.", *(lines[i] for i in (1, 4, 5, 6))]


def test_a_missing_uv_is_reported(index, tmp_path, monkeypatch):
    monkeypatch.setattr(offline_kit.shutil, "which", lambda name, path: None)
    with pytest.raises(SetupError, match="made with uv") as caught:
        kit_of(tmp_path / "kit")
    assert caught.value.code == "uv-missing"


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("win_amd64", "x86_64-pc-windows-msvc"),
        ("win_arm64", "aarch64-pc-windows-msvc"),
        ("manylinux_2_17_x86_64", "x86_64-manylinux_2_17"),
        ("manylinux_2_30_aarch64", "aarch64-manylinux_2_28"),
        ("manylinux_2_99_x86_64", "x86_64-manylinux_2_40"),
        ("macosx_14_0_arm64", "aarch64-apple-darwin"),
    ],
)
def test_platforms_have_other_names_in_uv(tag, expected):
    name, variables = uv_platform(tag)
    assert name == expected
    assert variables == ({"MACOSX_DEPLOYMENT_TARGET": "14.0"} if "macosx" in tag else {})


@pytest.mark.parametrize("tag", ["amiga", "manylinux_2_5_x86_64", "manylinux_2_28_s390x", "win32"])
def test_an_unknown_platform_is_refused(tag, tmp_path):
    with pytest.raises(SetupError, match=f"'{tag}' is not known") as caught:
        kit_of(tmp_path / "kit", spec(tag))
    assert caught.value.code == "kit-platform"
    assert list(tmp_path.iterdir()) == []


def test_older_platforms_of_the_same_machine_count():
    tags = older_tags("manylinux_2_28_x86_64")
    assert tags[:2] == ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64"]
    assert {"manylinux2014_x86_64", "manylinux1_x86_64", "manylinux_2_5_x86_64"} <= set(tags)
    assert older_tags("win_amd64") == ["win_amd64"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A kit; tests change copies of it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        make_wheel(folder / "index", "alpha", "1.0", "beta")
        make_wheel(folder / "index", "beta", "1.0")
        use_index(folder / "index", patch)
        kit_of(folder / "kit", here())
    return folder / "kit"


@pytest.fixture
def kit(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copied kit")


def edit(kit, **changes):
    values = json.loads((kit / MANIFEST).read_text()) | changes
    (kit / MANIFEST).write_text(json.dumps(values))


TAMPERED = {
    "a byte": lambda kit: (kit / "wheels/beta-1.0-py3-none-any.whl").write_bytes(b"x"),
    "same size": lambda kit: (
        os.truncate(kit / "README.txt", 0) or (kit / "README.txt").write_bytes(b"x" * 10)
    ),
    "missing": lambda kit: (kit / "wheels/beta-1.0-py3-none-any.whl").unlink(),
    "added": lambda kit: make_wheel(kit / "wheels", "beta", "9.0"),
    "outside": lambda kit: edit(kit, files=[{"path": "../x", "size_bytes": 1, "sha256": "0"}]),
    "absolute": lambda kit: edit(kit, files=[{"path": "/x", "size_bytes": 1, "sha256": "0"}]),
    "drive": lambda kit: edit(kit, files=[{"path": "C:x", "size_bytes": 1, "sha256": "0"}]),
    "option": lambda kit: edit(kit, requirements=["--index-url=http://evil.example"]),
    "address": lambda kit: edit(kit, requirements=["alpha @ http://evil.example/alpha.whl"]),
    "weights outside": lambda kit: edit(
        kit, encoders=[{"hub_id": "a/b", "revision": "c", "folder": "../../home"}]
    ),
    "zero": lambda kit: edit(kit, files=[{"path": "a\0b", "size_bytes": 1, "sha256": "0"}]),
    "hub id outside": lambda kit: edit(
        kit, encoders=[{"hub_id": "a/..\\..\\..\\b", "revision": "c", "folder": "encoders/a"}]
    ),
    "commit outside": lambda kit: edit(
        kit, encoders=[{"hub_id": "a/b", "revision": "..", "folder": "encoders/a"}]
    ),
    "commit on a drive": lambda kit: edit(
        kit, encoders=[{"hub_id": "a/b", "revision": "C:", "folder": "encoders/a"}]
    ),
    "no JSON": lambda kit: (kit / MANIFEST).write_text("{"),
    "no object": lambda kit: (kit / MANIFEST).write_text("[]"),
    "unknown key": lambda kit: edit(kit, surprise=1),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_a_kit_that_was_changed_is_refused(kit, change):
    verify_kit(kit, SilentReporter())
    TAMPERED[change](kit)
    with pytest.raises(SetupError, match="kit is damaged") as caught:
        install_kit(kit, SilentReporter(), pip=("false",))
    assert caught.value.code == "kit-damaged"
    assert str(kit) not in str(caught.value)


def test_files_of_file_managers_are_ignored(kit):
    manifest = read_manifest(kit)
    for name in (".DS_Store", "wheels/Thumbs.db", "wheels/._beta-1.0-py3-none-any.whl"):
        (kit / name).write_bytes(b"x")
    assert verify_kit(kit, SilentReporter()) == manifest


def test_a_kit_of_another_kind_is_refused(kit, tmp_path):
    manifest = read_manifest(kit)
    with pytest.raises(SetupError, match=r"is for Python 3\.\d+; this is Python 2\.7"):
        check_fits(manifest, (2, 7))
    with pytest.raises(SetupError, match=f"is for {manifest.platforms[0]}; this is"):
        check_fits(manifest, tags=["win_amd64"])
    edit(kit, schema=99)
    with pytest.raises(SetupError) as caught:
        verify_kit(kit, SilentReporter())
    assert caught.value.code == "kit-version"
    with pytest.raises(SetupError) as caught:
        verify_kit(tmp_path, SilentReporter())
    assert caught.value.code == "kit-missing"


@pytest.mark.slow
def test_a_kit_is_installed_without_any_index_and_changes_nothing(kit, tmp_path, monkeypatch):
    python = ThrowAwayPython(tmp_path)
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    before = installed_versions([str(python.site_packages)])
    assert install_kit(kit, SilentReporter(), pip=python.pip) == ()
    after = installed_versions([str(python.site_packages)])
    assert after == before | {"alpha": "1.0", "beta": "1.0"}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The hub's cache of the connected machine, with small weights."""
    cache = use_cache(tmp_path / "connected", monkeypatch)
    repository = cache / ("models--" + HUB_ID.replace("/", "--"))
    snapshot = repository / "snapshots" / COMMIT
    save_transformers(vit(), snapshot)
    (snapshot / "LICENSE.md").write_text("DINOv3 License")
    (snapshot / "script.py").write_text("evil()")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return cache


def use_cache(folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    return folder


def test_weights_come_with_their_license_and_are_found_offline(
    index, weights, tmp_path, monkeypatch
):
    kit = tmp_path / "kit"
    manifest = kit_of(kit, here(encoders=(HUB_ID,)), allow_download=False)
    (encoder,) = manifest.encoders
    copied = {path.name for path in (kit / encoder.folder).iterdir()}
    assert copied == {"config.json", "model.safetensors", "LICENSE.md", "NOTICE.txt"}
    assert "DINOv3 License" in (kit / encoder.folder / "NOTICE.txt").read_text()
    cache = use_cache(tmp_path / "offline é", monkeypatch)
    assert install_weights(kit, manifest, SilentReporter()) == (HUB_ID,)
    found = cached_folder(HUB_ID)
    assert found.is_relative_to(cache)
    assert found.name == COMMIT
    (known,) = registry._read().values()
    assert known == HUB_ID
    # A second time nothing is in the way.
    assert install_weights(kit, manifest, SilentReporter()) == (HUB_ID,)


def test_the_commands(index, tmp_path):
    kit = tmp_path / "kit"
    refused = run("offline-kit", kit, "--platform", "win_amd64", "--encoder", HUB_ID)
    assert refused.exit_code == 2
    assert "--accept-license" in refused.stderr
    both = run("offline-kit", kit, "--platform", "win_amd64", "--cpu", "--cuda", "cu126")
    assert both.exit_code == 2
    lacking = run("offline-kit", kit, "--platform", "win_amd64", "--json")
    assert lacking.exit_code == 2
    assert json.loads(lacking.stdout.splitlines()[-1])["code"] == "kit-unresolved"
    assert not kit.exists()
    nothing = run("install-offline", tmp_path)
    assert nothing.exit_code == 2
    assert "no offline kit" in nothing.stderr
