"""Everything that a run carries besides numbers and its model: tables, figures, the plan, the data
set."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.files import DATA_JSON, load_facts
from pipeline.reporting.run.layers import LayerRow, read_layers
from pipeline.reporting.run.page.write import PAGE
from pipeline.reporting.run.rows import columns, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_artifacts(client: MlflowClient, run_id: str, root: Path) -> None:
    """Logs the page, plan.json, bounds.json, params.yaml, dvc.lock, the per-layer tables, the rows
    of the plots and the exports."""
    own = ("out/plan.json", "out/compressed/bounds.json", "params.yaml", "dvc.lock")
    for name in (*own, f"reports/{PAGE}", "reports/metrics.json", "reports/spectra.csv"):
        if (root / name).is_file():
            client.log_artifact(run_id, str(root / name))
    rows = read_layers(root / "reports")
    table = {name: [shown(getattr(row, name)) for row in rows] for name in columns(LayerRow)}
    client.log_table(run_id, table, "layers.json")
    client.log_artifacts(run_id, str(root / "reports/plots"), "plots")
    if (root / "out/exports").is_dir():
        client.log_artifacts(run_id, str(root / "out/exports"), "exports")


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
