"""Program of a job that prepares data: ``python -m palaver.data FOLDER``."""

import sys
from pathlib import Path

from palaver.data.program import PrepareProgram, Stopped
from palaver.jobs.folder import JobProgram


def main() -> None:
    with JobProgram(Path(sys.argv[1])) as job:
        try:
            job.finish(PrepareProgram(job).run())
        except Stopped:
            pass


if __name__ == "__main__":
    main()
