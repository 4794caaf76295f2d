"""A graph of several inputs as MLflow's models serve it: arrays by their names in, and an array (or
several by name) out. MLflow copies this file and runs it where this project is not: it needs torch
and MLflow alone."""

from __future__ import annotations

from typing import Any

import mlflow
import torch
from mlflow.pyfunc.model import PythonModel
from torch import Tensor


class NamedGraph(PythonModel):
    """The graph `model.pt2` of torch.export, called by keywords."""

    def load_context(self, context: Any) -> None:
        self.graph = torch.export.load(context.artifacts["graph"]).module()

    # Without annotations: MLflow would take them for the model's signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        named = {name: torch.as_tensor(value) for name, value in model_input.items()}
        with torch.no_grad():
            found = self.graph(**named)
        if isinstance(found, Tensor):
            return found.numpy()
        return {name: value.numpy() for name, value in found.items()}


mlflow.models.set_model(NamedGraph())
