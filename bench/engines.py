"""The networks under other engines than torch, side by side: OpenVINO and ONNX Runtime.

    .venv/bin/pip install openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 onnxscript==0.7.2
    python bench/engines.py [--checkpoint FOLDER] [--threads N] [--window 96 96 32]
        [--precision float32]

Neither is a dependency: without them, there is nothing to compare with. The network of a checkpoint
sees one window, filled at random, that of brain extraction the average head that comes with
nilearn. Prints seconds of each engine, the least of three runs, how much faster than torch it is,
and the mean of how far its output is from torch's, over the largest value.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import SAMPLE, measured
from torch import Tensor, nn

from mrisr_node.superres.checkpoints import Checkpoint
from mrisr_node.superres.networks import conditions
from mrisr_node.superres.operators import SUB_SLICES
from mrisr_node.superres.sources import load_ras
from mrisr_node.volumes.brain import _network as brain_network
from mrisr_node.volumes.geometry import FloatArray

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
HEAD = (128, 144, 128)  # about 1.5 mm

Inputs = tuple[Tensor, ...]
Engine = Callable[[nn.Module, Inputs, bool], Callable[[], FloatArray]]
"""From a network, what it is given, and whether in bfloat16, to what computes it."""


def in_torch(network: nn.Module, inputs: Inputs, bfloat16: bool) -> Callable[[], FloatArray]:
    """Run the network in torch, in bfloat16 by autocast."""

    def run() -> FloatArray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return np.asarray(network(*inputs).float().numpy())

    return run


def in_openvino(network: nn.Module, inputs: Inputs, bfloat16: bool) -> Callable[[], FloatArray]:
    """Convert the network for OpenVINO's CPU plugin."""
    openvino = importlib.import_module("openvino")
    model = openvino.convert_model(network, example_input=inputs)
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    compiled = openvino.compile_model(model, "CPU", settings)
    values = [value.contiguous().numpy() for value in inputs]
    return lambda: np.asarray(compiled(values)[0])


def in_onnx_runtime(network: nn.Module, inputs: Inputs, bfloat16: bool) -> Callable[[], FloatArray]:
    """Export the network to ONNX; on CPUs its runtime knows float32 only."""
    if bfloat16:
        raise NotImplementedError("ONNX Runtime's CPU convolutions are float32")
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        torch.onnx.export(network, inputs, path, dynamo=True, verbose=False)
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    values = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return lambda: np.asarray(session.run(None, values)[0])


ENGINES: dict[str, Engine] = {"OpenVINO": in_openvino, "ONNX Runtime": in_onnx_runtime}


def compare(what: str, network: nn.Module, inputs: Inputs, bfloat16: bool) -> None:
    """Print one network under every engine."""
    expected, seconds, _ = measured(in_torch(network, inputs, bfloat16), 3)
    print(f"{what}, {torch.get_num_threads()} threads\n  torch: {seconds:.2f} s", flush=True)
    for name, engine in ENGINES.items():
        try:
            run = engine(network, inputs, bfloat16)
        except (ModuleNotFoundError, NotImplementedError) as error:
            print(f"  {name}: {error}", flush=True)
            continue
        found, other, _ = measured(run, 3)
        differs = float(np.abs(found - expected).mean() / np.abs(expected).max())
        print(
            f"  {name}: {other:.2f} s, {seconds / other:.2f} × as fast; differs by {differs:.1e}",
            flush=True,
        )


def exportable(network: nn.Module) -> nn.Module:
    """Return a copy whose instance norms have no statistics but the image's, which exports know."""
    network = copy.deepcopy(network)
    for norm in network.modules():
        if isinstance(norm, nn.InstanceNorm3d):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = None
    return network


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINTS / "thin-quick")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--window", type=int, nargs=3, default=(96, 96, 32))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    checkpoint = Checkpoint.load(arguments.checkpoint)
    bfloat16 = arguments.precision == "bfloat16"
    window = torch.rand(1, SUB_SLICES, *arguments.window)
    window = window.contiguous(memory_format=torch.channels_last_3d)
    compare(
        f"{checkpoint.card.name}, {arguments.precision}, a window of {tuple(arguments.window)}",
        checkpoint.network.to(memory_format=torch.channels_last_3d),  # type: ignore[call-overload]
        (window, conditions(5.0, 5.0, 1.0)[None]),
        bfloat16,
    )
    head = torch.from_numpy(np.ascontiguousarray(load_ras(SAMPLE).data.transpose(2, 1, 0)))
    head = nn.functional.interpolate(head[None, None], HEAD, mode="trilinear")
    head = (head - head.mean()) / head.std()
    compare(
        f"HD-BET, {arguments.precision}, {HEAD}", exportable(brain_network(0)), (head,), bfloat16
    )


if __name__ == "__main__":
    main()
