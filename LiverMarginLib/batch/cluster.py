"""The same cases on a Dask cluster that exists already: a task a case, each with warm workers of its own.

A task runs the very `Pipeline` of a single machine with one case after the other, so that time limits, memory limits
and second attempts are the same. All machines must see inputs and output under the same paths.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import LiverMarginLib
from LiverMarginLib.batch.pipeline import OnRecord, Pipeline, Recipe
from LiverMarginLib.batch.plan import Case, case_from_dict
from LiverMarginLib.batch.records import CaseRecord, Status, publish_record, record_from_dict
from LiverMarginLib.errors import DependencyError, LiverMarginError, ResourceError
from LiverMarginLib.events import CancelToken

if TYPE_CHECKING:
    from distributed import Client, Future

_CONNECT_SECONDS = 30
_LOOK_SECONDS = 0.5

# In a Dask worker: the warm workers of each of its threads.
_warm: dict[int, tuple[str, Pipeline]] = {}


def run_on_cluster(
    address: str,
    recipe: Recipe,
    cases: Sequence[Case],
    on_record: OnRecord,
    cancel: CancelToken,
) -> None:
    """Bring cases to their end; parameters and errors as for `Pipeline.run`.

    Parameters
    ----------
    address : str
        Of the scheduler, such as ``tcp://host:8786``, or the path of its scheduler file.

    Raises
    ------
    DependencyError
        If Dask is not installed here, or LiverMargin of this version not on the cluster.
    ResourceError
        If the scheduler does not answer.
    """
    client = _connect(address)
    waiting: dict[Future, Case] = {}
    try:
        _check_versions(client)
        for case in cases:
            # A new key each time: Dask must not answer with what another run has computed.
            future = client.submit(run_case, asdict(recipe), asdict(case), pure=False)
            waiting[future] = case
        while waiting:
            cancel.check()
            _wait_for_one(client, list(waiting))
            for future in [future for future in waiting if future.done()]:
                _collect(future, waiting.pop(future), recipe, on_record)
    finally:
        client.cancel(list(waiting))
        client.close()


def run_case(recipe: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    """One case, in a Dask worker.

    Returns
    -------
    dict
        ``record``, ``fresh`` and ``log`` as `OnRecord` takes them.
    """
    wanted = json.dumps(recipe, sort_keys=True)
    thread = threading.get_ident()
    if thread not in _warm or _warm[thread][0] != wanted:
        if thread in _warm:
            _warm.pop(thread)[1].close()
        fields = {**recipe, "formats": tuple(recipe["formats"])}
        _warm[thread] = wanted, Pipeline(Recipe(**fields))
    answer: dict[str, Any] = {}

    def keep(record: CaseRecord, fresh: bool, log: Sequence[str]) -> None:
        answer.update(record=json.loads(record.to_json()), fresh=fresh, log=list(log))

    try:
        _warm[thread][1].run([case_from_dict(case)], keep, CancelToken())
    except BaseException:
        _warm.pop(thread)[1].close(at_once=True)
        raise
    return answer


def _connect(address: str) -> Client:
    try:
        from distributed import Client
    except ImportError as error:
        raise DependencyError("Dask is not installed; run pip install livermargin[cluster].") from error
    try:
        if address.endswith(".json"):
            return Client(scheduler_file=address, timeout=_CONNECT_SECONDS, set_as_default=False)
        return Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # OSError, TimeoutError, ValueError for an address that is none
        raise ResourceError(
            "The Dask scheduler does not answer at this address; check the address, and that the cluster runs.",
            f"{type(error).__name__}: {error}",
        ) from error


def _check_versions(client: Client) -> None:
    if not client.scheduler_info(n_workers=-1)["workers"]:
        raise ResourceError("The Dask cluster has no workers; start some, then start the batch again.")
    try:
        versions = set(client.run(_library_version).values())
    except Exception as error:  # whatever importing the library raises on a worker
        raise DependencyError(
            "LiverMargin is not installed on every Dask worker; install the same version there.", str(error)
        ) from error
    if versions - {LiverMarginLib.__version__}:
        raise DependencyError("The Dask workers have another version of LiverMargin; install the same version there.")


def _library_version() -> str:
    import LiverMarginLib

    return LiverMarginLib.__version__


def _wait_for_one(client: Client, futures: list[Future]) -> None:
    from distributed import wait

    with client.as_current(), contextlib.suppress(TimeoutError):
        wait(futures, timeout=_LOOK_SECONDS, return_when="FIRST_COMPLETED")


def _collect(future: Future, case: Case, recipe: Recipe, on_record: OnRecord) -> None:
    error = future.exception()
    if error is None:
        answer = future.result()
        on_record(record_from_dict(answer["record"]), answer["fresh"], answer["log"])
        return
    if isinstance(error, LiverMarginError):
        raise error
    # Dask has tried it on several workers, and each was lost.
    message = "The machines of the cluster that had this case were lost one after the other; look at the cluster's log."
    record = CaseRecord(case.name, Status.FAILED, message=message, error="crash")
    publish_record(record, recipe.final(case.name), recipe.work)
    on_record(record, True, (f"cluster: {type(error).__name__}",))
