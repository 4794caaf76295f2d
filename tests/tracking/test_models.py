"""The network among MLflow's models: loaded, served and registered without this project."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml
from mlflow import MlflowClient
from safetensors.torch import save_file

from pipeline import lowrank as lr
from pipeline.data.files import load_facts, load_split
from pipeline.data.options import DataOptions
from pipeline.data.preparation import prepare_data
from pipeline.data.preprocessing import save_preprocessing
from pipeline.lowrank.tasks import Regression
from pipeline.models.resnet import ResNet
from pipeline.tracking.models import REFUSED, log_model, model_of, register
from pipeline.tracking.options import TrackOptions
from pipeline.tracking.store import open_client
from tests.models.transformers_case import write_book, write_model
from tests.stages.nets import TwoInputs
from tests.tracking.undecided import Undecided

SPEC = {"_target_": "pipeline.models.resnet.ResNet", "widths": [12], "blocks": [1], "hidden": 16}


def run_of(client: MlflowClient) -> str:
    """A finished run of the store in the current directory, where track found it."""
    _, experiment = open_client(TrackOptions())
    run: str = client.create_run(experiment).info.run_id
    client.set_terminated(run, "FINISHED")
    return run


@contextmanager
def served(client: MlflowClient, model: str) -> Iterator[str]:
    """The address at which `mlflow models serve` answers for a model, in a process of its own."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = ["models", "serve", "-m", model, "-p", str(port), "--env-manager", "local"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": client.tracking_uri, "OMP_NUM_THREADS": "1"}
    with Path("serve.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        while not answers(f"{address}/ping"):
            assert server.poll() is None, Path("serve.log").read_text()
            time.sleep(0.3)
        yield f"{address}/invocations"
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def asked(address: str, request: dict[str, Any]) -> Any:
    head = {"Content-Type": "application/json"}
    posted = urllib.request.Request(address, json.dumps(request).encode(), head)
    with urllib.request.urlopen(posted, timeout=300) as answer:
        return json.loads(answer.read())["predictions"]


def test_a_cnn_is_registered_and_answers_to_images_as_they_are_stored(
    client: MlflowClient, digits: Path
) -> None:
    shutil.copytree(digits, "out/data")
    torch.manual_seed(0)
    net = ResNet(widths=[12], blocks=[1], hidden=16).eval()
    split = load_split(Path("out/data"), "test")
    lr.compress_(net, lr.Energy(0.8), split.inputs[:1])
    lr.save(net, "out/fine_tuned", SPEC)
    save_preprocessing(Path("out/fine_tuned"), load_facts(digits).preprocessing)
    run = run_of(client)
    log_model(client, run, Path())
    model = model_of(client, run)
    assert model is not None
    for _ in range(2):  # the second time it is a version already
        register(client, model, "digits", "newest")
    assert client.get_model_version_by_alias("digits", "newest").version == 1
    (said,) = mlflow.models.get_model_info(f"models:/{model}").signature.inputs.to_dict()
    assert said["tensor-spec"]["shape"] == (-1, 1, 8, 8)

    images, expected = split.stored[:7], net(split.inputs[:7])
    with served(client, "models:/digits@newest") as address:
        found = torch.tensor(asked(address, {"inputs": images.tolist()}))
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.exports
def test_a_language_model_is_asked_in_words_and_answers_in_words(client: MlflowClient) -> None:
    pytest.importorskip("transformers")
    from pipeline.models.huggingface import load, self_contained
    from tests.data.test_text import prepare

    write_model(Path("net"), "causal_lm")
    prepare(Path("out"), write_book(Path("book.txt")), Path("net"))
    spec = {
        "_target_": "pipeline.models.huggingface.load",
        "name": "net", "sha256": None, "task": "causal_lm", "dtype": "float32",
    }  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump({"model": spec}))
    net = load(name="net", sha256=None, task="causal_lm", dtype="float32")
    lr.compress_(net, lr.Energy(0.9), torch.zeros(1, 8, dtype=torch.int64))
    lr.save(net, "out/fine_tuned", self_contained(spec, net))
    run = run_of(client)
    log_model(client, run, Path())
    model = model_of(client, run)
    assert model is not None, client.get_run(run).data.tags
    request = {"inputs": ["the river", "a small boat"], "params": {"max_new_tokens": 4}}
    with served(client, f"models:/{model}") as address:
        first, second = asked(address, request)
    assert first.startswith("the river") and second.startswith("a small boat")
    assert len(first) > len("the river")


def test_a_network_of_several_inputs_answers_to_them_by_their_names(client: MlflowClient) -> None:
    """In any order, and any number of examples."""
    parts = {"a": torch.rand(200, 12), "b": torch.rand(200, 5)}
    tensors = {f"inputs.{key}": value for key, value in parts.items()}
    save_file({**tensors, "labels": torch.rand(200)}, "data.safetensors")
    options = DataOptions(
        name="tensors", path="data.safetensors", calibration=20, validation=20, test=20
    )
    prepare_data(Path("out/data"), options, Regression(), seed=0)
    torch.manual_seed(0)
    net = TwoInputs().eval()
    split = load_split(Path("out/data"), "test")
    lr.compress_(net, lr.Energy(0.8), split.batch(slice(0, 1))[0])
    lr.save(net, "out/fine_tuned", {"_target_": f"{TwoInputs.__module__}.TwoInputs"})
    save_preprocessing(Path("out/fine_tuned"), load_facts(Path("out/data")).preprocessing)
    run = run_of(client)
    log_model(client, run, Path(), [TwoInputs])
    model = model_of(client, run)
    assert model is not None, client.get_run(run).data.tags
    loaded = mlflow.pyfunc.load_model(f"models:/{model}")
    stored = {key: split.stored[key][:7].numpy() for key in ("b", "a")}
    expected = net(**split.batch(slice(0, 7))[0])
    found = loaded.predict(stored)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(torch.from_numpy(found[key]), value, atol=1e-5)
    with pytest.raises(mlflow.MlflowException, match="missing inputs"):
        loaded.predict({"a": stored["a"]})


def test_a_network_that_torch_cannot_export_is_logged_as_a_folder(
    client: MlflowClient, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digits, "out/data")
    lr.save(Undecided().eval(), "out/fine_tuned", {"_target_": f"{Undecided.__module__}.Undecided"})
    run = run_of(client)
    log_model(client, run, Path(), [Undecided])
    assert "logged as a folder (network)" in capsys.readouterr().out
    found = client.get_run(run)
    assert found.info.status == "FINISHED" and found.data.tags[REFUSED].startswith("a folder: ")
    assert model_of(client, run) is None
    assert {Path(one.path).name for one in client.list_artifacts(run, "network")} >= {
        "model.safetensors",
        "lowrank.json",
        "lowrank_load.py",
    }
