"""Everything that a run carries besides numbers: tables, figures, the plan, the data set, the
model."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.data.files import DATA_JSON, load_facts, load_split
from pipeline.data.splits import Values
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.forms.allowed import Allowed
from pipeline.lowrank.forms.files import load
from pipeline.reporting.run.layers import LayerRow, read_layers
from pipeline.reporting.run.page.write import PAGE
from pipeline.reporting.run.rows import columns, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REQUIREMENTS = ("torch", "numpy")


def log_artifacts(client: MlflowClient, run_id: str, root: Path) -> None:
    """Logs the page, plan.json, bounds.json, params.yaml, dvc.lock, the per-layer tables and the
    rows of the plots."""
    own = ("out/plan.json", "out/compressed/bounds.json", "params.yaml", "dvc.lock")
    for name in (*own, f"reports/{PAGE}", "reports/metrics.json", "reports/spectra.csv"):
        if (root / name).is_file():
            client.log_artifact(run_id, str(root / name))
    rows = read_layers(root / "reports")
    table = {name: [shown(getattr(row, name)) for row in rows] for name in columns(LayerRow)}
    client.log_table(run_id, table, "layers.json")
    client.log_artifacts(run_id, str(root / "reports/plots"), "plots")


def log_dataset(client: MlflowClient, run_id: str, root: Path) -> None:
    """Logs the data set as an input of the run, named by its content."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    facts = load_facts(root / "out/data")
    digest = hashlib.sha256((root / "out/data" / DATA_JSON).read_bytes()).hexdigest()[:16]
    source = CodeDatasetSource(tags={"mlflow.source.name": facts.source})
    data = MetaDataset(source, name=facts.name, digest=digest)  # type: ignore[abstract]
    tags = [InputTag(f"{split} examples", str(size)) for split, size in facts.sizes.items()]
    client.log_inputs(run_id, [DatasetInput(data._to_mlflow_entity(), tags)])


def has_model(client: MlflowClient, run_id: str) -> bool:
    """Whether a model was logged to the run."""
    outputs = client.get_run(run_id).outputs
    return bool(outputs and outputs.model_outputs)


def log_model(client: MlflowClient, run_id: str, root: Path, allow: Iterable[Allowed] = ()) -> None:
    """Logs the fine-tuned network as an MLflow model (pt2: it loads without this project). Where
    MLflow cannot hold it, that is told, and its folder is logged, which `lr.load` reads; the run is
    finished either way."""
    import mlflow

    folder = root / "out/fine_tuned"
    inputs, _ = load_split(root / "out/data", "test").batch(slice(0, 2))
    with warnings.catch_warnings(), mlflow.start_run(run_id=run_id):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.export").setLevel(logging.ERROR)
        try:
            _log_as_model(load(folder, allow=allow), inputs)
        except Exception as error:  # whatever torch.export, MLflow and its store give
            reason = " ".join(str(error).split())[:200]
            print(f"track: logged as a folder (network), not as an MLflow model: {reason}")
            client.log_artifacts(run_id, str(folder), "network")


def _log_as_model(network: nn.Module, inputs: Values) -> None:
    import mlflow

    if not isinstance(inputs, Tensor):
        raise LowRankError("MLflow's models of torch take one tensor, this network several")
    # A local build's suffix (+cpu) is known to no package index.
    requirements = [f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS]
    mlflow.pytorch.log_model(
        network,
        name="model",
        input_example=inputs.numpy(),
        pip_requirements=requirements,
    )
