"""Time of a detection by groups of functions, and of the encoder by operators."""

from collections.abc import Mapping

from Benchmark.speed.site import own_settings
from Benchmark.speed.tables import Options, Table
from Benchmark.speed.timing import spread, timed
from Benchmark.speed.warm_job import WarmJob
from Benchmark.speed.watches import Watches

GROUPS = {
    "model and encoder at hand": ("service.detection.model_cache:ModelCache.load",),
    "read the file": ("service.scans:ScanSource.read",),
    "body mask": ("engine.slices.slice_stack:body_mask",),
    "intensity range": ("engine.slices.slice_stack:intensity_range",),
    "resample to images": ("engine.slices.slice_stack:SliceStack.images",),
    "encoder": ("engine.encoder.encoder:DINOv3Encoder.embed",),
    "autoregressive scoring": ("engine.scoring.scoring:slice_nll",),
    "back to voxels": (
        "engine.slices.slice_stack:SliceStack.volume_from_tokens",
        "engine.slices.slice_stack:SliceStack.inside_volume",
    ),
    "findings": ("service.detection.detect:find_in_box",),
    "case score": ("service.detection.detect:case_score",),
    "write NLL volume": ("service.detection.result_files:write_nrrd",),
    "write segmentation": ("service.detection.result_files:write_segmentation",),
    "write label map": ("service.detection.result_files:write_nifti_labels",),
    "write table": ("service.detection.result_files:write_table",),
    "write review picture": ("service.detection.result_files:write_review",),
    "write manifest": ("service.detection.result_files:_write_manifest",),
}
"""Functions of a detection, in the order of their work."""

PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm", "aten::mkldnn_convolution", "aten::conv2d")
ATTENTION = "scaled_dot_product"
REPEATS = 3
BATCH = 8


def run(options: Options) -> list[Table]:
    """Measure both tables."""
    with own_settings(options.work):
        job = WarmJob.make(options)
        job()
        return [_job_table(job, options), _encoder_table(job, options)]


def _job_table(job: WarmJob, options: Options) -> Table:
    runs: list[dict[str, float]] = []
    missing: list[str] = []
    for _ in range(min(options.repeats, REPEATS)):
        watches = Watches(options.device)
        with watches.on(GROUPS):
            whole = timed(job, options.device)
        rest = whole - sum(watches.seconds.values())
        runs.append(watches.seconds | {"all else": rest, "whole job": whole})
        missing = watches.missing
    assert job.detection is not None
    slices = len(job.detection.stack.indices)
    whole_s = spread([one["whole job"] for one in runs]).median
    rows = []
    for group in runs[0]:
        took = spread([one[group] for one in runs])
        rows.append((group, took, took.median / whole_s, took.median / slices * 1000))
    notes = [
        f"{slices} body slices, model and encoder warm; every moment is counted for the "
        f"innermost group; median of {len(runs)} with least and largest.",
    ]
    if options.device.type != "cpu":
        notes.append("The device is synchronized after every function, so nothing overlaps.")
    if missing:
        notes.append(f"Not found, so part of another row: {', '.join(missing)}.")
    return Table(
        "profile-job",
        "Where the time of a detection goes",
        ("Work", "Seconds", "Share", "ms a slice"),
        tuple(rows),
        tuple(notes),
    )


def _encoder_table(job: WarmJob, options: Options) -> Table:
    """Profile one batch: attention, products, and all else."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    stack, encoder = job.stack()
    images = torch.cat([torch.from_numpy(stack.images(one)) for one in stack.indices[:BATCH]])
    encoder.embed(images)
    on_gpu = options.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    shares: dict[str, list[float]] = {}
    for _ in range(min(options.repeats, REPEATS)):
        with profile(activities=activities) as found:
            encoder.embed(images)
        events = found.key_averages()
        field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        times = {event.key: float(getattr(event, field)) for event in events}
        for kind, share in _by_kind(times).items():
            shares.setdefault(kind, []).append(share)
    return Table(
        "profile-encoder",
        "Where the time of the encoder goes",
        ("Work", "Share"),
        tuple((kind, spread(found)) for kind, found in shares.items()),
        (f"Own time of torch's operators in a batch of {len(images)} images.",),
    )


def _by_kind(times: Mapping[str, float]) -> dict[str, float]:
    """Sum the shares of attention, products, the largest others, and the rest."""
    total = sum(times.values())
    assert total > 0, times
    kinds = {"products of matrices": 0.0, "attention": 0.0}
    others: dict[str, float] = {}
    for name, took in times.items():
        if ATTENTION in name or "flash" in name or "fmha" in name:
            kinds["attention"] += took / total
        elif name in PRODUCTS or "gemm" in name or "cutlass" in name:
            kinds["products of matrices"] += took / total
        else:
            others[name] = took / total
    # Fixed names give all runs the same rows.
    for shown, part in (("activation", "gelu"), ("normalization", "norm"), ("copies", "copy")):
        kinds[shown] = sum(share for name, share in others.items() if part in name)
    kinds["all else"] = 1.0 - sum(kinds.values())
    return kinds
