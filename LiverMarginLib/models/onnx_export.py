"""A torch network as an ONNX graph that gives probabilities and says nothing about the machine it was made on."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import BundleError, DependencyError
from LiverMarginLib.models.architectures import Activation

if TYPE_CHECKING:
    import onnx
    import torch

FloatArray = npt.NDArray[np.float32]

INPUT_NAME = "image"
OUTPUT_NAME = "output"

# Understood by every ONNX Runtime from 1.17 on, which is the oldest that LiverMargin accepts.
_OPSET = 18
_IR_VERSION = 9


def export_onnx(
    module: torch.nn.Module, shape: tuple[int, ...], *, activation: Activation, half: bool = False
) -> bytes:
    """Export a network, its activation included, with a free batch axis.

    Parameters
    ----------
    module : torch.nn.Module
        In single precision on the CPU; put into evaluation mode here.
    shape : tuple of int
        (n, c, h, w) or (n, c, k, j, i) of the input; n stays free in the graph.
    activation : Activation
        Applied to the module's output inside the graph; the background of a softmax is left out.
    half : bool
        Store as half precision, with a cast back, every weight that loses nothing by it.

    Returns
    -------
    bytes
        The serialised model, without paths, source lines or other traces of the machine.

    Raises
    ------
    DependencyError
        If onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch.onnx needs it and says so in a long traceback)
    except ImportError as error:
        raise DependencyError("The ONNX export needs onnx and onnxscript; install livermargin[train].") from error
    import torch

    class Activated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            output = self.network(image)
            if activation is Activation.SOFTMAX:
                return torch.softmax(output, dim=1)[:, 1:]
            return torch.sigmoid(output) if activation is Activation.SIGMOID else output

    # Two images, not one: a batch of one would be traced as a constant.
    example = torch.zeros(2, *shape[1:])
    with _quiet():
        program = torch.onnx.export(
            Activated().eval(),
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=_OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        )
    if program is None:
        raise BundleError("The network cannot be exported to ONNX; save it without the ONNX graph.")
    model: onnx.ModelProto = program.model_proto
    model.ir_version = min(model.ir_version, _IR_VERSION)
    _strip(model)
    if half:
        halve_initialisers(model)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def halve_initialisers(model: onnx.ModelProto, products: Iterable[tuple[FloatArray, FloatArray]] = ()) -> None:
    """Store single-precision weights in half precision, followed by a cast, wherever the cast gives them back exactly.

    ONNX Runtime folds the casts when it loads the model, so that the computation is the same, bit for bit.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed in place.
    products : iterable of pair of ndarray of float32
        Weights and what they were multiplied by: an initialiser that is such a product, to the bit, becomes the
        product of the two, of which the first can be halved. ONNX Runtime folds that as well.
    """
    from onnx import TensorProto, helper, numpy_helper

    origins = {(weights * factors).tobytes(): (weights, factors) for weights, factors in products}
    nodes, constants = [], []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values, name, factors = numpy_helper.to_array(tensor), tensor.name, None
        if values.tobytes() in origins:
            values, factors = origins[values.tobytes()]
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if not np.array_equal(halved.astype(np.float32), values):
            continue
        tensor.CopyFrom(numpy_helper.from_array(halved, f"{name}.half"))
        single = name if factors is None else f"{name}.single"
        nodes.append(helper.make_node("Cast", [f"{name}.half"], [single], to=TensorProto.FLOAT))
        if factors is not None:
            constants.append(numpy_helper.from_array(factors, f"{name}.factors"))
            nodes.append(helper.make_node("Mul", [single, f"{name}.factors"], [name]))
    model.graph.initializer.extend(constants)
    nodes.extend(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes about source files and calls: absolute paths, and different in every checkout."""
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what torch's exporter says about packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
