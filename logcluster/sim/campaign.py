"""Many runs on several processors: worker processes, jobs, and what becomes of a worker that dies or hangs.

Invariants: every job that was handed out comes back as exactly one `Outcome`, also when its worker crashed or stood
still (`trouble` says so), unless the campaign is interrupted; no worker outlives the pool; a worker is replaced after
`jobs_per_worker` jobs, so that what a run leaks stays bounded. Which worker runs a job, and after which other jobs,
must not change its result: a run depends on its seed alone. Nothing in here is simulated; it runs on the machine.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final, Protocol

import logcluster
from logcluster.model.errors import LogClusterError
from logcluster.runtime.clock import perf_counter_ns
from logcluster.sim.report import CLUSTER_KIND, SeedReport, crashed, result_from_json

WALL_MS_MAX: Final = 120_000
JOBS_PER_WORKER: Final = 200
GRACE_MS: Final = 10_000
"""How long after its bound a worker may take to end itself, before it is killed."""
EXIT_MS_MAX: Final = 5_000
"""How long a worker that closed its output may take to be gone."""
TICK_MS: Final = 500
STDERR_TAIL_BYTES: Final = 16 * 1024
STDERR_TAIL_LINES: Final = 40


class CampaignFailed(LogClusterError):
    """The workers cannot start: nothing was learned about any seed."""

    definite = True


@dataclass(frozen=True, slots=True)
class Job:
    """One run to do.

    Args:
        kind: "cluster", "raft", "replication" or "scenario"; says which function of the worker runs it.
        seed: 0 for a scenario.
        name: of the scenario.
        options: keyword arguments of `run.RunOptions` besides seed and plan.
        plan: JSON of the plan; None derives it from the seed.
        with_timeline: also when the run passes.
        history_directory: where the history of a failure is written; None: nowhere.
    """

    kind: str = CLUSTER_KIND
    seed: int = 0
    name: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    plan: Any = None
    with_timeline: bool = False
    history_directory: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A job's end: `value` is the worker's answer; without one, `trouble` says what happened."""

    job: Job
    value: Mapping[str, Any] | None
    trouble: str
    wall_ms: int

    def report(self) -> SeedReport:
        """The outcome of a seed as a report; trouble is a finding like any other."""
        job = self.job
        if self.value is None:
            return crashed(kind=job.kind, seed=job.seed, detail=self.trouble, wall_ms=self.wall_ms, options=job.options)
        report = result_from_json(self.value)
        return report if report.wall_ms else replace(report, wall_ms=self.wall_ms)


class JobSource(Protocol):
    """Gives jobs as long as more are wanted, which may depend on outcomes."""

    def next_job(self) -> Job | None:
        """The next one; None when there is none now. Asked again after each outcome."""
        ...

    def on_outcome(self, outcome: Outcome) -> None:
        """A job of this source ended."""
        ...


class JobList:
    """A source of given jobs; stops handing out after the first bad outcome unless it is to keep going.

    Args:
        is_bad: whether an outcome is a reason to stop.
        on_each: told of every outcome.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        *,
        is_bad: Callable[[Outcome], bool] = lambda _: False,
        on_each: Callable[[Outcome], object] = lambda _: None,
    ) -> None:
        self._jobs = iter(jobs)
        self._is_bad = is_bad
        self._on_each = on_each
        self._is_stopped = False
        self.outcomes: list[Outcome] = []

    def next_job(self) -> Job | None:
        return None if self._is_stopped else next(self._jobs, None)

    def on_outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._is_stopped = self._is_stopped or self._is_bad(outcome)
        self._on_each(outcome)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_command() -> list[str]:
    """How a worker is started; tests put a worker of their own here."""
    return [sys.executable, "-P", "-m", "logcluster.sim.worker"]


class WorkerPool:
    """Runs jobs in up to `workers` processes; a context manager, which ends them all.

    Args:
        wall_ms_max: bound of a job's wall time; longer is a hang.
        jobs_per_worker: after how many a worker is replaced.
    """

    def __init__(
        self,
        workers: int,
        *,
        command: Sequence[str] | None = None,
        wall_ms_max: int = WALL_MS_MAX,
        jobs_per_worker: int = JOBS_PER_WORKER,
    ) -> None:
        self._workers_max = workers
        self._command = list(command or worker_command())
        self._wall_ms_max = wall_ms_max
        self._jobs_per_worker = jobs_per_worker
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self.started = 0
        """Worker processes so far."""

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self._workers):
            self._remove(worker)
        self._selector.close()

    @property
    def process_ids(self) -> list[int]:
        """Of the workers that live."""
        return [worker.process_id for worker in self._workers]

    def run(self, source: JobSource, *, on_tick: Callable[[], object] = lambda: None) -> None:
        """Run jobs until the source has none left and all have ended.

        Args:
            on_tick: called at least twice a second, for progress.

        Raises:
            CampaignFailed: a worker ended before it was ready.
        """
        while self._hand_out(source):
            for key, _ in self._selector.select(TICK_MS / 1000):
                worker: _Worker = key.data
                outcome = self._read(worker)
                if outcome is not None:
                    source.on_outcome(outcome)
            for worker, job in [(worker, worker.job) for worker in self._workers if worker.is_late()]:
                if job is not None:
                    source.on_outcome(self._ended(worker, job))
            on_tick()

    def run_one(self, job: Job) -> Outcome:
        """Run a single job."""
        jobs = JobList([job])
        self.run(jobs)
        return jobs.outcomes[0]

    def _hand_out(self, source: JobSource) -> bool:
        """Give each idle worker a job, starting workers up to the bound; False when nothing runs."""
        idle = [worker for worker in self._workers if worker.job is None]
        busy = len(self._workers) - len(idle)
        while busy < self._workers_max:
            job = source.next_job()
            if job is None:
                break
            worker = idle.pop() if idle else self._start()
            worker.give(job, self._wall_ms_max)
            busy += 1
        return busy > 0

    def _start(self) -> _Worker:
        worker = _Worker(self._command)
        self._workers.append(worker)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        self.started += 1
        return worker

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._selector.unregister(worker.answers)
        worker.end()

    def _read(self, worker: _Worker) -> Outcome | None:
        """What a readable worker has to say: an outcome, or nothing complete yet."""
        messages, is_open = worker.read()
        outcome = None
        for message in messages:
            if message.get("ready"):
                worker.is_ready = True
            else:
                outcome = worker.take(message)
        if not is_open and worker.job is not None:
            return self._ended(worker, worker.job)
        if not is_open or worker.jobs_done >= self._jobs_per_worker:
            self._remove(worker)
        return outcome

    def _ended(self, worker: _Worker, job: Job) -> Outcome:
        """The worker died or hung in the middle of a job: the job's outcome.

        Raises:
            CampaignFailed: it died before it was ready.
        """
        wall_ms = worker.job_ms()
        self._remove(worker)
        said = worker.last_words or "(it said nothing)"
        if not worker.is_ready:
            raise CampaignFailed(f"a worker of the simulator did not start:\n{said}")
        if wall_ms >= self._wall_ms_max:
            trouble = f"no result within {self._wall_ms_max / 1000:g} s; it was here:\n{said}"
        else:
            trouble = f"the worker ended with exit code {worker.exit_code}:\n{said}"
        return Outcome(job, None, trouble, wall_ms)


class _Worker:
    """One process. `answers` becomes readable when it says something or ends."""

    _ids: Iterator[int] = itertools.count(1)

    def __init__(self, command: Sequence[str]) -> None:
        package_root = str(Path(logcluster.__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")]))
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (end() closes it)
        # A process group of its own: Ctrl-C is for the campaign, which then ends its workers.
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            process_group=0,
        )
        self.answers = _pipe(self._process.stdout)
        os.set_blocking(self.answers.fileno(), False)
        self._unread = b""
        self.job: Job | None = None
        self._job_id = 0
        self._given_ns = perf_counter_ns()
        self._wall_ms_max = WALL_MS_MAX
        self._is_open = True
        self.jobs_done = 0
        self.is_ready = False
        self.last_words = ""
        """The end of what it wrote to standard error; known when it has ended."""

    def give(self, job: Job, wall_ms_max: int) -> None:
        """Send a job to the idle worker; a worker that has died is noticed when its answer is read."""
        self.job = job
        self._job_id = next(self._ids)
        self._wall_ms_max = wall_ms_max
        self._given_ns = perf_counter_ns()
        # Parent and child share the file's position: what earlier jobs said is dropped, so the file stays small.
        self._stderr.seek(0)
        self._stderr.truncate()
        message = {
            "id": self._job_id,
            "kind": job.kind,
            "seed": job.seed,
            "name": job.name,
            "options": dict(job.options),
            "plan": job.plan,
            "timeline": job.with_timeline,
            "history_directory": job.history_directory,
            "wall_ms_max": wall_ms_max,
        }
        with suppress(BrokenPipeError):
            stdin = _pipe(self._process.stdin)
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Complete messages, and whether there can be more."""
        try:
            while chunk := os.read(self.answers.fileno(), 1 << 20):
                self._unread += chunk
            self._is_open = False
        except BlockingIOError:
            pass
        lines = self._unread.split(b"\n")
        self._unread = lines.pop()
        return [json.loads(line) for line in lines], self._is_open

    def take(self, message: Mapping[str, Any]) -> Outcome | None:
        """The outcome that a message stands for; the worker is idle afterwards."""
        job = self.job
        if job is None or message["id"] != self._job_id:
            return None
        self.job = None
        self.jobs_done += 1
        return Outcome(job, message.get("value"), message.get("error", ""), message["wall_ms"])

    def job_ms(self) -> int:
        return (perf_counter_ns() - self._given_ns) // 1_000_000

    def is_late(self) -> bool:
        """It should have ended itself long ago."""
        return self.job is not None and self.job_ms() > self._wall_ms_max + GRACE_MS

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    def end(self) -> None:
        """End the process, at once unless it is ending by itself."""
        with suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        if not self._is_open:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_MS_MAX / 1000)
        self._process.kill()
        self._process.wait()
        self.answers.close()
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - STDERR_TAIL_BYTES))
        text = self._stderr.read().decode(errors="replace")
        self.last_words = "\n".join(text.splitlines()[-STDERR_TAIL_LINES:])
        self._stderr.close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise CampaignFailed("a worker was started without its pipes")
    return stream
