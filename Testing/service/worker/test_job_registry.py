"""The registry of jobs is complete, and the page of the protocol says the same as the code."""

import dataclasses
import inspect
import json
import re
import typing
from pathlib import Path
from typing import Any, get_args

import pytest
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.service.detection.model_cache import MODELS
from SpatialARAnomalyLib.service.events import Event, ResultEvent
from SpatialARAnomalyLib.service.jobs import JOBS, Empty, Job

PAGE = (Path(__file__).parents[3] / "Resources" / "Docs" / "worker.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_an_entry_names_a_function_that_takes_what_a_job_can_give(job):
    function, inputs, spec = job.load()
    assert issubclass(inputs, Spec)
    assert issubclass(spec, Spec)
    known = ("inputs", "spec", "output", "report")
    taken = list(inspect.signature(function).parameters)
    assert taken == [name for name in known if name in taken]
    hints = typing.get_type_hints(function)
    output = Path if job.writes_output else Path | None
    types = {"inputs": inputs, "spec": spec, "output": output, "report": Reporter}
    assert hints == {name: types[name] for name in taken} | {"return": dict[str, Any]}
    assert "output" in taken or not job.writes_output


def test_what_a_job_does_not_take_is_refused():
    for job, values in (("probe", {"inputs": {"x": 1}}), ("probe", {"spec": {"x": 1}})):
        with pytest.raises(SpecError, match="has no key x") as caught:
            JOBS[job].run(
                **{"inputs": {}, "spec": {}, "output": None} | values, report=SilentReporter()
            )
        assert caught.value.code == "spec-unknown-key"


def test_only_a_job_with_an_encoder_of_its_own_releases_the_kept_models(monkeypatch):
    released = []
    monkeypatch.setattr(MODELS, "release", lambda: released.append(name))
    given = {"inputs": Empty(), "spec": Empty(), "output": Path("/x"), "report": SilentReporter()}

    def function(inputs, spec, output, report):
        return {"inputs": inputs, "spec": spec, "output": output, "report": report}

    monkeypatch.setattr(Job, "load", lambda job: (function, Empty, Empty))
    for name, job in JOBS.items():  # noqa: B007 - `released` takes the name
        assert job.run({}, {}, "/x", given["report"]) == given
    assert released == ["train"]


def shown_fields(kind: type[Spec]) -> str:
    """The keys of a type, and the defaults of those that have one, as the page shows them."""
    shown = []
    for field in dataclasses.fields(kind):
        text = f"`{field.name}`"
        if not is_required(field):
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            text += ": " + json.dumps(
                default, ensure_ascii=False, default=lambda one: one.to_dict()
            )
        shown.append(text)
    return ", ".join(shown)


def is_required(field: dataclasses.Field) -> bool:
    """Whether a key has no default."""
    return field.default is field.default_factory is dataclasses.MISSING


def job_table() -> str:
    """The table of the page, made from the registry."""
    rows = ["| job | inputs | spec | output |", "| --- | --- | --- | --- |"]
    for name, job in JOBS.items():
        _, inputs, spec = job.load()
        output = "required" if job.writes_output else ""
        cells = (f"`{name}`", shown_fields(inputs), shown_fields(spec), output)
        rows.append(re.sub(" +", " ", f"| {' | '.join(cells)} |"))
    return "\n".join(rows)


def test_the_table_of_jobs_is_the_registry():
    assert f"\n\n{job_table()}\n\n" in PAGE, f"worker.md must have this table:\n\n{job_table()}\n"


def examples(text: str) -> list[str]:
    """The code blocks of a text, with what is left out of them made readable as JSON."""
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    return [re.sub(r"(?<=[\[{])…(?=[\]}])|, …", "", block) for block in blocks]


def test_every_job_has_a_section_whose_examples_use_its_keys():
    sections = re.split(r"^### (.*)$", PAGE, flags=re.MULTILINE)[1:]
    described, checked = [], 0
    for names, text in zip(sections[::2], sections[1::2], strict=True):
        described += names.split(", ")
        for block in examples(text):
            if block.startswith('"inputs"'):
                (name,) = names.split(", ")
                found = json.loads(f"{{{block}}}")
                _, inputs, _ = JOBS[name].load()
                assert set(found) == {"inputs"}
                assert set(found["inputs"]) <= {one.name for one in dataclasses.fields(inputs)}
                checked += 1
    assert sorted(described) == sorted(JOBS)
    assert checked >= 5


def test_every_event_is_shown_with_its_values():
    section = PAGE.split("## Events")[1].split("\n## ")[0]
    lines = [json.loads(line) for line in "".join(examples(section)).splitlines()]
    shown = {values["event"]: set(values) - {"id", "event"} for values in lines}
    assert shown.pop(ResultEvent.wire_name) == set()
    for kind in set(get_args(Event)) - {ResultEvent}:
        fields = dataclasses.fields(kind)
        values = shown.pop(kind.wire_name)
        assert {one.name for one in fields if is_required(one)} <= values
        assert values <= {one.name for one in fields}
    assert shown == {}
