"""Simulated processes: parts of this process that a test kills, as SIGKILL ends a real one.

::

    async def main() -> None:
        process = SimulatedProcess()
        process.run(serve(KillableLedger(ledger, process)))
        process.die_of_answer(20)
        await process.wait_dead()

    run_with_processes(main())

A process owns the tasks and the connections that its code opens. When it dies, its connections are
cut without a word, and its tasks are cancelled. Whatever they still do to clean up reaches nobody:
the network is gone, and so is every shared object that is wrapped, see `KillableLedger`.
"""

import asyncio
import gc
import inspect
import math
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, cast

from palaver.ledger import Ledger, OnChange
from palaver.messages import Conversation

T = TypeVar("T")
DEATH_SECONDS = 10.0
"""Seconds within which the tasks of a dead process have to end."""
_current: ContextVar["SimulatedProcess"] = ContextVar("process")


class SimulatedProcess:
    """Code that dies at once: when it is told to, or in the middle of its own work, between the
    effect of a call and its answer."""

    def __init__(self) -> None:
        self.is_dead = False
        self._calls_left = math.inf
        self._answers_left = math.inf
        self._tasks: set[asyncio.Task[Any]] = set()
        self._transports: set[asyncio.BaseTransport] = set()
        self._context = copy_context()
        self._context.run(_current.set, self)
        self._died = asyncio.Event()

    def run(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin ``work`` as a part of the process."""
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())

    def bind(self, callback: Callable[..., object]) -> Callable[..., None]:
        """Return a callback that runs as a part of the process, whoever calls it."""

        def call(*args: object) -> None:
            if not self.is_dead:
                self._context.copy().run(callback, *args)

        return call

    def kill(self) -> None:
        """End the process."""
        if self.is_dead:
            return
        self.is_dead = True
        self._died.set()
        for transport in self._transports:
            cast(asyncio.Transport, transport).abort()
        self._cancel_tasks()

    def die_of_call(self, number: int) -> None:
        """Let the process die of its next, second, third, … call of a wrapped object."""
        self._calls_left = number

    def die_of_answer(self, number: int) -> None:
        """Let the process die of the next, second, third, … piece of data that arrives for it."""
        self._answers_left = number

    def count_call(self) -> None:
        """Note that a call of a wrapped object has taken effect."""
        self._calls_left -= 1
        if self._calls_left <= 0:
            self.kill()

    async def wait_killed(self) -> None:
        """Wait until the process has died; its tasks may clean up still."""
        await self._died.wait()

    def _count_answer(self) -> None:
        self._answers_left -= 1
        if self._answers_left <= 0:
            self.kill()

    async def wait_dead(self) -> None:
        """Wait until the process has died and its tasks have ended. Raises `TimeoutError`."""
        await self._died.wait()
        async with asyncio.timeout(DEATH_SECONDS):
            while self._tasks:
                self._cancel_tasks()  # again: some clean up, which may wait for what is gone
                await asyncio.wait(set(self._tasks), timeout=0.05)

    # What the loop tells about the process

    def own_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.is_dead:
            task.cancel()

    def own_connection(self, transport: asyncio.BaseTransport, protocol: Any) -> None:
        # Any: a protocol of a library, of which only one method is used
        receive, lose = protocol.data_received, protocol.connection_lost

        def data_received(data: bytes) -> None:
            self._count_answer()
            if not self.is_dead:
                receive(data)

        def connection_lost(error: Exception | None) -> None:
            self._transports.discard(transport)
            lose(error)

        protocol.data_received, protocol.connection_lost = data_received, connection_lost
        self._transports.add(transport)

    def _cancel_tasks(self) -> None:
        for task in set(self._tasks):
            task.cancel()


class ProcessLoop(asyncio.SelectorEventLoop):
    """Event loop that knows to which `SimulatedProcess` a task or a connection belongs."""

    def create_task(  # type: ignore[override]  # typeshed knows generators as tasks, too
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = super().create_task(coro, name=name, context=context)
        process = _current.get(None) if context is None else context.get(_current)
        if process is not None:
            process.own_task(task)
        return task

    async def create_connection(self, *args: Any, **options: Any) -> Any:  # Any: as asyncio has it
        process = _current.get(None)
        if process is not None and process.is_dead:
            raise ConnectionRefusedError("the process is dead")
        transport, protocol = await super().create_connection(*args, **options)
        if process is not None:
            process.own_connection(transport, protocol)
        return transport, protocol

    async def connect_accepted_socket(self, *args: Any, **options: Any) -> Any:
        transport, protocol = await super().connect_accepted_socket(*args, **options)
        if (process := _current.get(None)) is not None:
            process.own_connection(transport, protocol)
            if process.is_dead:
                transport.abort()
        return transport, protocol


class KillableLedger:
    """A ledger as one process has it: the process may die of each call, after its effect.

    ``before_call`` is awaited with the name of each method: it may wait, or raise.
    """

    def __init__(
        self,
        ledger: Ledger,
        process: SimulatedProcess,
        before_call: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._process = process
        self._before_call = before_call

    @classmethod
    def wrap(cls, *args: Any, **options: Any) -> Ledger:  # Any: as `__init__`
        """Return a wrapped ledger. It has every method of the protocol."""
        return cast(Ledger, cls(*args, **options))

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        bound = self._process.bind(on_change)
        return cast(Callable[[], None], await self._call("watch", conversation, bound))

    def __getattr__(self, name: str) -> Any:  # Any: a method of the ledger
        method = getattr(self._ledger, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*args: Any, **options: Any) -> Any:
            return await self._call(name, *args, **options)

        return call

    async def _call(self, name: str, *args: Any, **options: Any) -> Any:
        self._check_alive()
        if self._before_call is not None:
            await self._before_call(name)
            self._check_alive()
        result = await getattr(self._ledger, name)(*args, **options)
        if name != "wait_for_work":  # it has no effect
            self._process.count_call()
        self._check_alive()
        return result

    def _check_alive(self) -> None:
        if self._process.is_dead:
            raise asyncio.CancelledError


def run_with_processes(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a new `ProcessLoop`."""
    with warnings.catch_warnings():
        for category in (
            ResourceWarning,
            RuntimeWarning,
        ):  # who is killed closes and awaits nothing
            warnings.simplefilter("ignore", category)
        with asyncio.Runner(loop_factory=ProcessLoop) as runner:
            runner.get_loop().set_exception_handler(_ignore_unclosed)
            result = runner.run(main)
        gc.collect()
    return result


def _ignore_unclosed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not context["message"].startswith("Unclosed"):
        loop.default_exception_handler(context)
