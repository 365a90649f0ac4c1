"""A real program of a job: it mixes numbers step by step, with a checkpoint after every tenth.

Its result depends on every step, so a resumed run has the same one only if it went on exactly.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

from palaver.jobs.folder import JobProgram, Json

CHECKPOINT = "checkpoint.json"
BEGINNING = '{"step": 0, "mix": ""}'


def main() -> None:
    with JobProgram(Path(sys.argv[1])) as job:
        steps, checkpoint = int(job.config["steps"]), job.path / CHECKPOINT
        at: Json = json.loads(checkpoint.read_text() if checkpoint.exists() else BEGINNING)
        for step in range(at["step"] + 1, steps + 1):
            if step == job.config.get("fails_at"):
                raise ValueError("the data\nis damaged")
            time.sleep(float(job.config.get("seconds", 0)))
            at = {"step": step, "mix": hashlib.sha256(f"{at['mix']}{step}".encode()).hexdigest()}
            job.report(step=step, steps=steps, loss=1 / step)
            if step % 10 == 0 or job.is_stop_requested:
                fresh = job.path / "checkpoint.fresh"
                fresh.write_text(json.dumps(at))
                fresh.replace(checkpoint)
            if job.is_stop_requested:
                return
        job.finish({"mix": at["mix"]})


if __name__ == "__main__":
    main()
