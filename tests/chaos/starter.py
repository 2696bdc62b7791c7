"""Starts dnnjob's commands and tells their exit codes; cold as a user does, or warm.

starter = Starter(scratch)
command = starter.start(
    ["run", "job.toml"], trace=trace, cwd=folder, environ={}, program=work.program, warm=True
)
code = command.wait(300)

A warm command is forked from a process that has imported TensorFlow and the rest already: the same
code from the command line on, without the seconds that importing takes.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
RECORDER = CHECKOUT / "tests" / "launch" / "recorder"


@dataclass
class Command:
    """A command of dnnjob that was started, the first process of a group of its own."""

    pid: int
    said: Path
    """What it said on stderr."""
    printed: Path
    _ended: threading.Event = field(default_factory=threading.Event)
    _code: int | None = None

    @property
    def code(self) -> int | None:
        """Its exit code, minus the signal that ended it; None while it lives."""
        return self._code

    def end_with(self, code: int) -> None:
        """Notes its end."""
        self._code = code
        self._ended.set()

    def wait(self, seconds: float) -> int | None:
        """Its exit code once it has ended; None if it has not in time."""
        self._ended.wait(seconds)
        return self._code

    def talk(self) -> str:
        """What it has said so far."""
        return self.said.read_text(errors="replace") if self.said.exists() else ""


class Starter:
    """Starts commands.

    Args:
        scratch: Folder for what they say.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._commands: dict[int, Command] = {}
        self._count = 0
        self._warm: subprocess.Popen[str] | None = None
        self._answers: dict[int, int] = {}
        self._news = threading.Condition()

    def start(
        self,
        words: Sequence[object],
        *,
        trace: Path,
        cwd: Path,
        environ: Mapping[str, str],
        program: Sequence[str],
        warm: bool,
    ) -> Command:
        """Starts a command; its chief is traced. A warm one is dnnjob itself."""
        self._count += 1
        printed, said = (self._scratch / f"{self._count}.{kind}" for kind in ("out", "err"))
        own = {"DNNJOB_TRACE": str(trace), "PYTHONPATH": str(RECORDER), **environ}
        order = {
            "words": [str(word) for word in words],
            "environ": own,
            "cwd": str(cwd),
            "out": str(printed),
            "err": str(said),
        }
        return self._fork(order) if warm else self._spawn(order, program)

    def close(self) -> None:
        """Ends the process that warm commands come from."""
        if self._warm is not None and self._warm.stdin is not None:
            self._warm.stdin.close()
            self._warm.wait(60)

    def _spawn(self, order: dict[str, Any], program: Sequence[str]) -> Command:
        out, err = Path(order["out"]), Path(order["err"])
        with out.open("wb") as printed, err.open("wb") as said:
            process = subprocess.Popen(
                [*program, *order["words"]],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=said,
                cwd=order["cwd"],
                env={**os.environ, **order["environ"]},
                process_group=0,
            )
        command = Command(process.pid, err, out)
        threading.Thread(target=lambda: command.end_with(process.wait()), daemon=True).start()
        return command

    def _fork(self, order: dict[str, Any]) -> Command:
        if self._warm is None or self._warm.poll() is not None:
            self._warm = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            threading.Thread(target=self._hear, args=(self._warm,), daemon=True).start()
        with self._news:
            self._answers.pop(0, None)
            self._warm.stdin.write(json.dumps(order) + "\n")  # type: ignore[union-attr]
            assert self._news.wait_for(lambda: 0 in self._answers, 300), "no warm start"
            pid = self._answers.pop(0)
            command = self._commands[pid] = Command(pid, Path(order["err"]), Path(order["out"]))
            if pid in self._answers:
                command.end_with(self._answers.pop(pid))
        return command

    def _hear(self, warm: "subprocess.Popen[str]") -> None:
        for line in warm.stdout or ():
            news = json.loads(line)
            with self._news:
                command = self._commands.get(news["pid"])
                if "code" not in news:
                    self._answers[0] = news["pid"]
                elif command is not None:
                    command.end_with(news["code"])
                    del self._commands[news["pid"]]
                else:
                    self._answers[news["pid"]] = news["code"]
                self._news.notify_all()


def serve() -> None:
    """Forks a command for each order on stdin, and tells their process ids and exit codes."""
    _import_all()

    def tell(**news: int) -> None:
        os.write(1, json.dumps(news).encode() + b"\n")

    def reap(*_: object) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            tell(pid=pid, code=os.waitstatus_to_exitcode(status))

    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        order = json.loads(line)
        # Its end is told after its beginning.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            _become(order)
        tell(pid=pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _import_all() -> None:
    import importlib

    names = ("tensorflow", "keras", "pandas", "pyarrow.parquet", "pyarrow.csv", "sklearn.ensemble")
    own = ("cli", "run", "launch.foreground", "launch.worker", "training.train", "results.report")
    for name in (*names, *(f"dnnjob.{one}" for one in own)):
        importlib.import_module(name)


def _become(order: dict[str, Any]) -> None:
    """Turns the forked process into the command; never returns."""
    code = 70
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for number, path in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
            file = os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if number else 0), 0o644)
            os.dup2(file, number)
            os.close(file)
        os.chdir(order["cwd"])
        os.environ.update(order["environ"])
        # Python remembers the temporary folder of the process that this one comes from.
        tempfile.tempdir = None
        sys.argv[:] = ["dnnjob", *order["words"]]
        sys.path.insert(0, str(RECORDER))
        sys.modules.pop("sitecustomize", None)
        __import__("sitecustomize")
        from dnnjob.__main__ import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path.insert(0, str(CHECKOUT))
    serve()
