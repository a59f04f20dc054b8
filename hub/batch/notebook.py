"""Run one notebook with papermill, telling cell by cell what happens and truly how it ended."""

from __future__ import annotations

import ast
import logging
import os
import re
import resource
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import CellControlSignal, CellExecutionError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.execute import remove_error_markers
from papermill.iorw import LocalHandler, load_notebook_node, papermill_io, write_ipynb
from papermill.translators import papermill_translators
from papermill.utils import find_first_tagged_cell_index
from traitlets.config import Config

from hub.batch import ends
from hub.batch.files import write_atomically
from hub.batch.model import RunError, first_line, named_cell
from hub.batch.processes import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ENGINE = "meridian"
AUTOSAVE_SECONDS = 10
KERNEL_START_SECONDS = 120
# Output may lag behind the reply on a busy machine; nbclient's own 4 seconds fail such runs for nothing.
OUTPUT_LAG_SECONDS = 60
# Other people of the machine can reach the kernel's ports; those of another run must read nothing there.
KERNEL_CONFIG = Config({"KernelManager": {"transport_encryption": "auto"}})
MESSAGE_LIMIT = 2_000
TRACEBACK_LIMIT = 20_000

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
OUT_OF_MEMORY = re.compile(r"Cannot allocate memory|std::bad_alloc|Unable to allocate")


class NotebookFailedError(Exception):
    """The notebook did not run to its end; `error` is what the person is told."""

    def __init__(self, error: RunError) -> None:
        super().__init__(error.message)
        self.error = error


class NotebookStoppedError(Exception):
    """The notebook was asked to stop between two cells."""


class NotebookObserver(Protocol):
    """Who is told what happens; cells count from 1 in the submitted notebook."""

    def cell_started(self, cell: int, total: int, source: str) -> None: ...

    def cell_finished(self, cell: int, total: int) -> None: ...

    def wrote(self, text: str) -> None:
        """Output of the cell that runs, as it comes."""

    def stopping(self) -> bool:
        """Whether the next cell must not start."""


@dataclass(frozen=True)
class KernelLimits:
    """How the kernel is started: its directory, its environment, its address space in bytes."""

    directory: str
    environment: Mapping[str, str]
    memory_bytes: int


def plain(text: str) -> str:
    """The text without terminal escape sequences."""
    return ANSI.sub("", text)


def load_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook; NotebookFailedError (InvalidNotebook) when the file is not one."""
    try:
        notebook: nbformat.NotebookNode = load_notebook_node(str(path))
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        message = (
            f"The file is not a Jupyter notebook: {first_line(str(error))}. Save it again in JupyterLab and submit it."
        )
        raise NotebookFailedError(RunError(None, "InvalidNotebook", message, "", ends.INVALID_NOTEBOOK)) from error
    return notebook


def check_parameters(notebook: nbformat.NotebookNode, parameters: Mapping[str, Any]) -> None:
    """NotebookFailedError (UnknownParameter) for a parameter that the notebook does not have.

    papermill only warns, and the run would go on with the default. It reads one assignment a line:
    names in others (`a = dict(b=1)`) are found in the syntax tree. Languages that papermill cannot
    inspect are not checked.
    """
    index = find_first_tagged_cell_index(notebook, "parameters")
    known: set[str] = set()
    if index >= 0:
        cell = notebook.cells[index]
        language = _language(notebook)
        translator = papermill_translators.find_translator(_kernel(notebook), language)
        try:
            known = {parameter.name for parameter in translator.inspect(cell)}
        except NotImplementedError:
            return
        if language == "python":
            known |= _assigned_names(cell.source)
    unknown = sorted(set(parameters) - known)
    if not unknown:
        return
    names = ", ".join(f"'{name}'" for name in unknown)
    if index < 0:
        message = (
            f"The notebook takes no parameters, but {names} came with the run. "
            "Give the cell that holds the defaults the tag 'parameters'."
        )
    else:
        message = (
            f"The notebook has no parameter {names}. "
            f"Its parameters are: {', '.join(sorted(known)) or 'none'}. "
            "Correct the name, or add it to the cell tagged 'parameters'."
        )
    raise NotebookFailedError(RunError(None, "UnknownParameter", message, "", ends.UNKNOWN_PARAMETER))


def _kernel(notebook: nbformat.NotebookNode) -> str:
    return notebook.metadata.get("kernelspec", {}).get("name") or "python3"


def _language(notebook: nbformat.NotebookNode) -> str:
    """The language; a notebook that does not say is taken for Python."""
    stated = notebook.metadata.get("language_info", {}).get("name")
    return stated or notebook.metadata.get("kernelspec", {}).get("language") or "python"


def _assigned_names(source: str) -> set[str]:
    """The names that top-level statements assign; none when the source does not parse."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return set()
    names: set[str] = set()
    for statement in statements:
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        names.update(node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
    return names


class _AtomicHandler(LocalHandler):
    """papermill's files under the run's directory, replaced whole: people read the notebook as it grows."""

    def write(self, text: str, path: str) -> None:
        write_atomically(Path(path), text, durable=False)


class _RunClient(PapermillNotebookClient):
    """Executes the cells. Unlike papermill's own loop it marks the cell where it broke off as failed.

    papermill marks a cell that never replied, and all that follow, completed: after a killed
    kernel its saved notebook claims success.
    """

    def __init__(
        self,
        manager: Any,
        observer: NotebookObserver,
        numbers: Mapping[str, int],
        memory_bytes: int,
        **traits: Any,
    ) -> None:
        super().__init__(manager, **traits)
        self._observer = observer
        self._numbers = numbers
        self._memory_bytes = memory_bytes
        self._memory_kills = ends.memory_kills()
        self.error: RunError | None = None
        self.reached_cells = False

    def papermill_execute_cells(self) -> None:
        self.reached_cells = True
        total = len(self._numbers)
        for index, cell in enumerate(self.nb.cells):
            if self._observer.stopping():
                self.nb_man.cell_exception(cell, cell_index=index)
                raise NotebookStoppedError
            number = self._numbers.get(cell.id)
            if number is not None:
                self._observer.cell_started(number, total, cell.source)
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                self.nb_man.cell_exception(cell, cell_index=index)
                self._record(error, number, cell)
                break
            except (RuntimeError, CellControlSignal) as error:
                self.nb_man.cell_exception(cell, cell_index=index)
                raise NotebookFailedError(self._broken(error, number, cell)) from error
            finally:
                self.nb_man.cell_complete(cell, cell_index=index)
            if number is not None:
                self._observer.cell_finished(number, total)

    def process_message(self, *args: Any, **options: Any) -> nbformat.NotebookNode | None:
        output: nbformat.NotebookNode | None = super().process_message(*args, **options)
        if output:
            self._observer.wrote(_printed(output))
        return output

    def _record(self, error: CellExecutionError, number: int | None, cell: nbformat.NotebookNode) -> None:
        """An exception that the cell did not catch; `sys.exit()` and `sys.exit(0)` end a notebook well."""
        if error.ename == "SystemExit" and error.evalue in ("", "0"):
            return
        lines: list[str] = next((o.traceback for o in reversed(cell.outputs) if o.output_type == "error"), [])
        traceback = plain("\n".join(lines) or error.traceback)[-TRACEBACK_LIMIT:]
        value = plain(error.evalue)[:MESSAGE_LIMIT]
        where = named_cell(number, cell.source)
        if error.ename.endswith("MemoryError") or OUT_OF_MEMORY.search(value):
            message = (
                f"The {_gib(self._memory_bytes)} of memory of this run's size were not enough in {where}"
                f"{': ' + value if value else ''}. Choose a larger size, or load less at once."
            )
            self.error = RunError(number, "MemoryError", message, traceback, ends.OUT_OF_MEMORY)
        else:
            message = f"In {where}: {value or error.ename}"
            self.error = RunError(number, error.ename, message, traceback, ends.NOTEBOOK_ERROR)

    def _broken(self, error: Exception, number: int | None, cell: nbformat.NotebookNode) -> RunError:
        """The kernel stopped answering: it died, or its output never arrived."""
        where = named_cell(number, cell.source)
        if isinstance(error, CellControlSignal):
            message = f"The kernel's output stopped coming in {where}: {first_line(str(error))}. Run it again."
            return RunError(number, "OutputLost", message, "", ends.OUTPUT_LOST)
        process = getattr(getattr(self.km, "provisioner", None), "process", None)
        code = process.poll() if process is not None else None
        if code == -signal.SIGKILL and ends.memory_kills() > self._memory_kills:
            message = (
                f"The {_gib(self._memory_bytes)} of memory of this run's size were not enough in {where}: the machine "
                "ended the notebook's kernel. Choose a larger size, or load less at once."
            )
            return RunError(number, "MemoryError", message, "", ends.OUT_OF_MEMORY)
        how = f"was ended by signal {-code}" if code is not None and code < 0 else "died"
        message = (
            f"The notebook's kernel {how} in {where}. Most often its memory ran out "
            f"({_gib(self._memory_bytes)} in this run's size), or a compiled library crashed. "
            "Choose a larger size, or load less at once."
        )
        return RunError(number, "KernelDied", message, "", ends.KERNEL_DIED)


def _gib(size: int) -> str:
    return f"{size / 2**30:.4g} GiB"


def _printed(output: nbformat.NotebookNode) -> str:
    """What a terminal would show of an output."""
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return plain("\n".join(output.traceback)) + "\n"
    text = output.get("data", {}).get("text/plain", "")
    return f"{text}\n" if text else ""


class _RunEngine(NBClientEngine):
    """papermill's engine with our client, and with limits on the kernel's process."""

    @classmethod
    def execute_managed_notebook(
        cls,
        manager: Any,
        kernel_name: str,
        *,
        make_client: Callable[..., _RunClient],
        limits: KernelLimits,
        **_unused: object,
    ) -> None:
        parent = os.getpid()

        def limit_kernel() -> None:
            die_with_parent(parent)
            resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        client = make_client(manager, kernel_name=kernel_name)
        try:
            client.execute(cwd=limits.directory, env=dict(limits.environment), preexec_fn=limit_kernel)
        finally:
            # A kernel that never answered ran no cell: without a failed one papermill completes them all.
            if not client.reached_cells and manager.nb.cells:
                manager.cell_exception(manager.nb.cells[0], cell_index=0)


papermill_engines.register(ENGINE, _RunEngine)
# Its warnings are about parameter lines that it cannot read, which `check_parameters` can.
logging.getLogger("papermill").setLevel(logging.ERROR)


def kernel_python(notebook: nbformat.NotebookNode) -> str | None:
    """The interpreter of the notebook's kernel as its specification names it; None when that is not Python."""
    specification = KernelSpecManager().get_kernel_spec(_kernel(notebook))
    program = specification.argv[0] if specification.argv else ""
    return program if Path(program).name.startswith("python") else None


def run_notebook(
    notebook: nbformat.NotebookNode,
    output: Path,
    parameters: Mapping[str, Any],
    limits: KernelLimits,
    observer: NotebookObserver,
) -> None:
    """Execute the notebook into `output`, which is saved as it goes.

    Raises NotebookFailedError when a cell or the kernel failed, NotebookStoppedError when the
    observer asked for it between two cells. Only these tell how it ended, never the saved file.
    """
    kernel = _kernel(notebook)
    kernels = KernelSpecManager().find_kernel_specs()
    if kernel not in kernels:
        message = (
            f"The notebook asks for the kernel '{kernel}', which the image does not have. "
            f"It has: {', '.join(sorted(kernels))}. Choose one of them in JupyterLab and submit it again."
        )
        raise NotebookFailedError(RunError(None, "NoSuchKernel", message, "", ends.NO_SUCH_KERNEL))
    numbers = {cell.id: number for number, cell in enumerate(notebook.cells, start=1)}
    clients: list[_RunClient] = []

    def make_client(manager: Any, **traits: Any) -> _RunClient:
        clients.append(
            _RunClient(
                manager,
                observer,
                numbers,
                limits.memory_bytes,
                startup_timeout=KERNEL_START_SECONDS,
                iopub_timeout=OUTPUT_LAG_SECONDS,
                timeout=None,
                config=KERNEL_CONFIG,
                **traits,
            )
        )
        return clients[-1]

    papermill_io.register(str(output.parent), _AtomicHandler())
    try:
        papermill.execute_notebook(
            notebook,
            # papermill formats the path with the parameters: a brace in it is not a field.
            str(output).replace("{", "{{").replace("}", "}}"),
            parameters=dict(parameters),
            engine_name=ENGINE,
            kernel_name=kernel,
            language=_language(notebook),
            progress_bar=False,
            autosave_cell_every=AUTOSAVE_SECONDS,
            make_client=make_client,
            limits=limits,
        )
    except papermill.PapermillExecutionError as error:
        if clients[-1].error is None:
            # A cell tagged `raises-exception` did so: papermill takes that for a failure, Jupyter does not.
            write_ipynb(remove_error_markers(load_notebook_node(str(output))), str(output))
            return
        raise NotebookFailedError(clients[-1].error) from error
    except RuntimeError as error:
        message = (
            f"The kernel '{kernel}' did not start: {first_line(str(error))}. Most often the run's size "
            f"has too little memory for it ({_gib(limits.memory_bytes)}): choose a larger size."
        )
        raise NotebookFailedError(
            RunError(None, "KernelDidNotStart", message, "", ends.KERNEL_DID_NOT_START)
        ) from error
    if clients[-1].error is not None:
        raise NotebookFailedError(clients[-1].error)
