"""The fine-tuned network among MLflow's models, and its name in the registry."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.data.files import load_task
from pipeline.data.preprocessing import PREPROCESSING_JSON
from pipeline.lowrank.errors import LowRankError
from pipeline.lowrank.exports.calls import calls_of
from pipeline.lowrank.exports.converting import in_dtype, in_form
from pipeline.lowrank.exports.export import export
from pipeline.lowrank.exports.graph import Graphable
from pipeline.lowrank.exports.normalised import Constants, Normalised
from pipeline.lowrank.exports.readme import README
from pipeline.lowrank.exports.to_huggingface import CONFIG
from pipeline.lowrank.exports.to_pt2 import FILE
from pipeline.lowrank.exports.transformer import is_transformer
from pipeline.lowrank.forms.allowed import Allowed
from pipeline.lowrank.forms.files import load
from pipeline.reporting.run.leaving import constants, example, notes, tokenizer
from pipeline.tracking.signatures import tensor_signature, text_signature

if TYPE_CHECKING:
    from mlflow import MlflowClient

REFUSED = "lowrank.model"  # the tag that says why MLflow has a folder instead of a model
# Tasks whose network reads and answers in text, by the pipeline of transformers that does.
_TEXT = {
    "causal_lm": "text-generation",
    "masked_lm": "fill-mask",
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "encoder": "feature-extraction",
}


def model_of(client: MlflowClient, run_id: str) -> str | None:
    """The id of the model that was logged to the run; None where there is none."""
    outputs = client.get_run(run_id).outputs
    return outputs.model_outputs[0].model_id if outputs and outputs.model_outputs else None


def log_model(client: MlflowClient, run_id: str, root: Path, allow: Iterable[Allowed] = ()) -> None:
    """Logs the fine-tuned network of the run in `root` as a model of MLflow, which loads and serves
    without this project.

    A transformer that reads text is one of the flavour `transformers`: text in, text out. Any other
    network is a graph of torch.export that takes examples as they are stored, any number of them,
    several inputs by their names.
    Where MLflow cannot hold the network that is told, and the export `torch` is logged as a folder
    instead; the run is finished either way.
    """
    network = load(root / "out/fine_tuned", allow=allow)
    words = tokenizer(root) if is_transformer(network) else None
    task = load_task(root / "out/data").name
    ways: list[Callable[[], None]] = [partial(_log_graph, network, root)]
    if words is not None and task in _TEXT:
        ways.insert(0, partial(_log_text, network, words, _TEXT[task], root))
    reasons = []
    with _quiet_run(client, run_id):
        for way in ways:
            try:
                way()
                return
            except Exception as error:  # whatever torch, transformers, MLflow and its store give
                reasons.append(" ".join(str(error).split())[:200])
    reason = "; ".join(reasons)
    print(f"track: logged as a folder (network), not as an MLflow model: {reason}")
    client.set_tag(run_id, REFUSED, f"a folder: {reason}")
    _log_folder(client, run_id, network, root)


def register(client: MlflowClient, model_id: str, name: str, alias: str | None) -> None:
    """Makes the model the newest version of `name` in the registry, which gets the alias; a model
    that is a version already only gets the alias."""
    from mlflow.exceptions import MlflowException

    if not client.search_registered_models(f"name = '{name}'"):
        with suppress(MlflowException):  # another process was faster
            client.create_registered_model(name)
    source = f"models:/{model_id}"
    known = client.search_model_versions(f"name = '{name}'")
    version_of = next((one.version for one in known if one.source == source), None)
    if version_of is None:
        version_of = client.create_model_version(name, source, model_id=model_id).version
    if alias is not None:
        client.set_registered_model_alias(name, alias, str(version_of))
    print(f"track: {name} version {version_of}" + (f", alias {alias}" if alias else ""))


@contextmanager
def _quiet_run(client: MlflowClient, run_id: str) -> Iterator[None]:
    """The run is MLflow's active one, and ends when it had ended before."""
    import mlflow

    ended = client.get_run(run_id).info.end_time
    try:
        with warnings.catch_warnings(), mlflow.start_run(run_id=run_id):
            warnings.simplefilter("ignore")
            logging.getLogger("torch.export").setLevel(logging.ERROR)
            yield
    finally:
        client.set_terminated(run_id, "FINISHED", ended)


def _log_text(network: nn.Module, words: Any, pipeline: str, root: Path) -> None:
    """The folder of the export `huggingface`, opened by transformers, as a pipeline of text."""
    import mlflow
    import transformers
    from huggingface_hub import ModelCard

    with TemporaryDirectory() as name:
        folder = Path(name, "export")
        batch = example(root / "out/data", stored=False)
        export(network, folder, "huggingface", example=batch, tokenizer=words, notes=notes(root))
        auto = list(json.loads((folder / CONFIG).read_text())["auto_map"])[-1]
        model = getattr(transformers, auto).from_pretrained(
            folder,
            trust_remote_code=True,  # of the code that was just written there
        )
        text = words.decode(
            [one for one in batch[0].tolist() if one >= 0], skip_special_tokens=True
        )
        if pipeline == "fill-mask":
            text = f"{text} {words.mask_token}"
        mlflow.transformers.log_model(
            {"model": model, "tokenizer": words},
            name="model",
            task=pipeline,
            input_example=[text],
            signature=text_signature(pipeline),
            model_card=ModelCard((folder / README).read_text()),
            pip_requirements=_requirements("torch", "transformers", "accelerate"),
        )


def _log_graph(network: nn.Module, root: Path) -> None:
    import mlflow

    folder = root / "out/fine_tuned"
    normalise = constants(folder) if (folder / PREPROCESSING_JSON).is_file() else None
    network = in_dtype(network, torch.float32)
    batch = example(root / "out/data", stored=True)
    if isinstance(batch, dict):
        _log_named_graph(network, batch, normalise)
        return
    if normalise is not None:
        network = Normalised(network, normalise)
    calls = calls_of(batch)
    graph = Graphable(in_form(network, "plain"), calls[0]).eval()
    mlflow.pytorch.log_model(
        graph,
        name="model",
        input_example=batch.numpy(),
        signature=tensor_signature(graph, calls),
        pip_requirements=_requirements("torch", "numpy"),
        serialization_format="pt2",
    )


def _log_named_graph(
    network: nn.Module, batch: Mapping[str, Tensor], normalise: Mapping[str, Constants] | None
) -> None:
    """The export `pt2`, called by the names of its inputs; MLflow's flavour of torch takes one."""
    import mlflow

    inside = network if normalise is None else Normalised(network, normalise)
    calls = calls_of(batch)
    with TemporaryDirectory() as name:
        export(network, Path(name, "graph"), "pt2", example=batch, normalise=normalise)
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("named_graph.py")),
            artifacts={"graph": str(Path(name, "graph", FILE))},
            input_example={key: value.numpy() for key, value in calls[0].named.items()},
            signature=tensor_signature(Graphable(inside, calls[0]).eval(), calls),
            pip_requirements=_requirements("torch", "numpy"),
        )


def _log_folder(client: MlflowClient, run_id: str, network: nn.Module, root: Path) -> None:
    """The export `torch`, for the user's own class; of a network that it can't hold, such as one
    whose layers were opened, the folder that `lr.load` reads."""
    saved = root / "out/fine_tuned"
    with TemporaryDirectory() as name:
        folder = Path(name, "network")
        try:
            beside = [path for path in [saved / PREPROCESSING_JSON] if path.is_file()]
            batch = example(root / "out/data", stored=False)
            export(network, folder, "torch", example=batch, beside=beside, notes=notes(root))
        except LowRankError as error:
            print(f"track: no export for torch alone: {error}")
            folder = saved
        client.log_artifacts(run_id, str(folder), "network")


def _requirements(*packages: str) -> list[str]:
    """The versions here; a local build's suffix (+cpu) is known to no package index."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in packages]
