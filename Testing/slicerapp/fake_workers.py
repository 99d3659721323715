"""Worker processes that misbehave, as scripts."""

import sys
from pathlib import Path

_BEGIN = """
import json, os, signal, subprocess, sys, time

def say(**event):
    sys.stdout.write(json.dumps(event) + "\\n")
    sys.stdout.flush()

def hello(protocol=1):
    say(event="hello", protocol=protocol, engine="fake", pid=os.getpid(), device="cpu")

def requests():
    for line in sys.stdin:
        yield json.loads(line)
"""

BEHAVIORS = {
    "answers": """
hello()
for request in requests():
    if "job" in request:
        say(id=request["id"], event="stage", name="embed", index=1, of=1)
        say(id=request["id"], event="result", echo=request["inputs"], files={})
""",
    "garbage": """
hello()
next(requests())
print("Traceback: no JSON at all", flush=True)
time.sleep(60)
""",
    "no event": """
hello()
next(requests())
print("[1, 2]", flush=True)
time.sleep(60)
""",
    "id that is none": """
hello()
next(requests())
say(id=[1], event="result")
time.sleep(60)
""",
    "garbage twice": """
hello()
next(requests())
os.write(1, b"no JSON\\nno JSON\\n")
time.sleep(60)
""",
    "endless line": """
hello()
next(requests())
while True:
    sys.stdout.write("x" * 100_000)
    sys.stdout.flush()
""",
    "exits without result": "hello(); next(requests())",
    "exits with words": """
hello()
next(requests())
print("CUDA exploded in " + os.path.expanduser("~") + "/secret", file=sys.stderr, flush=True)
sys.exit(3)
""",
    "words in pieces": """
hello()
next(requests())
place = os.path.expanduser("~") + "/ä"
for byte in ("lost in " + place).encode():
    os.write(2, bytes([byte]))
    time.sleep(0.005)
""",
    "killed with a child": """
os.setsid()
hello()
request = next(requests())
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
say(id=request["id"], event="stage", name=str(child.pid), index=1, of=1)
next(requests())
os.kill(os.getpid(), signal.SIGKILL)
""",
    "everybody's group": """
say(event="hello", protocol=1, engine="fake", pid=0, device="cpu")
time.sleep(60)
""",
    "killed": "hello(); next(requests()); os.kill(os.getpid(), signal.SIGKILL)",
    "other protocol": "hello(protocol=99); time.sleep(60)",
    "silent": "time.sleep(60)",
    "hangs in the job": "hello(); next(requests()); time.sleep(60)",
    "ignores cancel": """
os.setsid()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
hello()
for request in requests():
    if "job" in request:
        say(id=request["id"], event="stage", name=str(child.pid), index=1, of=1)
""",
    "pauses": """
hello()
for request in requests():
    if "job" in request:
        say(id=request["id"], event="stage", name="fit", index=1, of=1)
    for word, event in (("pause", "paused"), ("continue", "continued"), ("cancel", "cancelled")):
        if word in request:
            say(id=request[word], event=event)
""",
    "half a line": """
hello()
request = next(requests())
sys.stdout.write('{"id": %d, "event": "res' % request["id"])
sys.stdout.flush()
""",
    "result after the cancel": """
hello()
for request in requests():
    if "job" in request:
        job = request["id"]
        say(id=job, event="stage", name="embed", index=1, of=1)
    else:
        say(id=job, event="result", files={})
""",
    "trains": """
import queue, threading
hello()
told = queue.Queue()

def listen():
    for request in requests():
        told.put(request)
    os._exit(0)

threading.Thread(target=listen, daemon=True).start()

def row(name, **more):
    return dict(name=name, source={"path": "/scans/" + name}, kind="NIfTI", modality="MR",
        shape_kji=[6, 48, 40], spacing_mm=[4.8, 4.8, 20.0], slices=6, status="used", code=None,
        reason=None) | more

def survey(request):
    job = request["id"]
    say(id=job, event="stage", name="read", index=2, of=3)
    say(id=job, event="progress", done=1, total=2, unit="volume", eta_s=2.0)
    rows = [row(f"normal_{number}.nii.gz") for number in range(3)]
    rows.append(row("copy.nii.gz", status="excluded", code="duplicate",
        reason="It has the same content as normal_0.nii.gz."))
    for volume in request["inputs"]["volumes"]:
        source = {key: volume[key] for key in ("voxels", "affine", "name")}
        rows.append(row(volume["name"], source=source, kind="scene"))
    say(id=job, event="result", rows=rows, modality="MR", fov_mm=230.0, estimate=dict(
        embed_s=70.0, fit_s=7200.0, memory_bytes=3_200_000_000, disk_bytes=900_000_000,
        model_bytes=5_000_000, free_disk_bytes=500_000_000), estimate_problem=None)

def train(request):
    job, epochs, paused = request["id"], request["spec"]["epochs"], False
    say(id=job, event="stage", name="embed", index=2, of=4)
    say(id=job, event="progress", done=9, total=18, unit="slice", eta_s=100.0)
    say(id=job, event="stage", name="fit", index=3, of=4)
    epoch = 0
    while epoch < epochs:
        try:
            message = told.get(timeout=None if paused else 0.03)
        except queue.Empty:
            epoch += 1
            nll = abs(epoch - 4) / 10 + 1
            say(id=job, event="epoch", epoch=epoch, train_mse=1 / epoch, held_out_nll=nll)
            say(id=job, event="progress", done=epoch, total=epochs, unit="batch", eta_s=1.0)
            continue
        if message.get("cancel") == job:
            say(id=job, event="cancelled")
            return
        paused = message.get("pause") == job
        say(id=job, event="paused" if paused else "continued")
    say(id=job, event="result", model=request["output"], name=request["spec"]["name"])

while True:
    request = told.get()
    if request.get("job") == "survey":
        survey(request)
    elif request.get("job") == "train":
        train(request)
""",
    "many large lines": """
hello()
request = next(requests())
for number in range(300):
    say(id=request["id"], event="notice", code=str(number), text="ä" * 10_000)
say(id=request["id"], event="result")
time.sleep(60)
""",
}


def fake_command(behavior: str, folder: Path) -> tuple[str, ...]:
    """Return the command of a worker with this behavior."""
    script = folder / f"{behavior.replace(' ', '_')} é.py"
    script.write_text(_BEGIN + BEHAVIORS[behavior], encoding="utf-8")
    return sys.executable, str(script)
