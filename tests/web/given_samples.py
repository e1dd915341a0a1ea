"""Files that were given to be processed, and what came of them, in the records and on the disk."""

from __future__ import annotations

import json
import secrets

from mrisr_node.choices import Recipe
from mrisr_node.jobs.given_files import FILES_READY, Wish, give, give_for_pairs
from mrisr_node.jobs.result_files import digests_of
from mrisr_node.pairs.options import PairOptions
from mrisr_node.records import Job, Series, State, StoredFile
from mrisr_node.settings import Settings


def stored(settings: Settings, owner: str = "admin", **more) -> StoredFile:
    """A file that can be downloaded."""
    settings.files_dir.mkdir(parents=True, exist_ok=True)
    key = secrets.token_hex(16)
    (settings.files_dir / key).write_bytes(b"bytes")
    facts = json.dumps({"shape": [64, 64, 12], "spacing_mm": [1.0, 1.0, 5.0]})
    return StoredFile.create(
        key=key, owner=owner, size=5, sha256=key * 2, media_type="application/gzip",
        **{"name": "head.nii.gz", "facts": facts} | more,
    )  # fmt: skip


def wish(settings: Settings, study: dict[str, str] | None = None, owner: str = "admin") -> Wish:
    """What is to be done with an uploaded file."""
    return Wish(stored(settings, owner), Recipe.NATIVE, 2, 5.0, "T1w", study)


def given(settings: Settings, study: dict[str, str] | None = None, owner: str = "admin") -> Job:
    """The job of a file, queued."""
    [series], _ = give(owner, [wish(settings, study, owner)])
    return Job.get(Job.series == series)


def given_for_pairs(settings: Settings, owner: str = "admin") -> Job:
    """The job of a dataset of pairs, queued."""
    series = give_for_pairs(owner, [stored(settings, owner)], PairOptions(contrast="T1w"), None)
    return Job.get(Job.series == series)


def end(settings: Settings, job: Job, state: State = State.DONE) -> StoredFile:
    """Have a job be over, with a file that it made."""
    reason = FILES_READY if state is State.DONE else f"it is {state}"
    Series.update(state=state.value, reason=reason).where(Series.id == job.series_id).execute()
    (settings.work_dir / str(job.id)).mkdir(parents=True, exist_ok=True)
    return stored(settings, job.series.sender, name="thin.nii.gz", facts="{}", job=job)


def whole_result(settings: Settings, job: Job) -> None:
    """Have a job's result lie in its folder, whole."""
    folder = settings.work_dir / str(job.id) / "result"
    folder.mkdir(parents=True)
    (folder / "1.dcm").touch()
    (folder.parent / "result.json").write_text('{"instances": 1}')
    (folder.parent / "digests.json").write_text(json.dumps(digests_of(folder)))
