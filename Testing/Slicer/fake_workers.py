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
    """The command of a worker that behaves so."""
    script = folder / f"{behavior.replace(' ', '_')} é.py"
    script.write_text(_BEGIN + BEHAVIORS[behavior], encoding="utf-8")
    return sys.executable, str(script)
