"""A small writer of ONNX graphs, and torch modules turned into pieces for it."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from LiverMarginLib.errors import DependencyError

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 18
IR_VERSION = 9


def import_onnx() -> Any:
    """Import onnx, or say how to get it.

    Raises
    ------
    DependencyError
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch.onnx needs it and says so in a long traceback)
    except ImportError as error:
        raise DependencyError("The ONNX export needs onnx and onnxscript; install livermargin[train].") from error
    return onnx


def trace(
    module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], free: Mapping[str, Mapping[int, str]]
) -> onnx.ModelProto:
    """Export a torch module.

    Parameters
    ----------
    module : torch.nn.Module
        Its forward takes the `inputs` by position, in this order.
    inputs : mapping of str to Tensor
        Examples. An axis that shall stay free must be longer than one.
    free : mapping of str to mapping of int to str
        Names of the free axes of each input; the same name means the same length.
    """
    import_onnx()
    import torch

    names = {name for axes in free.values() for name in axes.values()}
    dims = {name: torch.export.Dim(name) for name in sorted(names)}
    shapes = tuple({axis: dims[name] for axis, name in free.get(key, {}).items()} for key in inputs)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=list(inputs),
                dynamic_shapes=shapes,
            )
    finally:
        logger.setLevel(level)
    return program.model_proto  # type: ignore[union-attr]


class GraphBuilder:
    """Collects nodes and constants; every method that makes a value returns the value's name."""

    def __init__(self) -> None:
        self._onnx = import_onnx()
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._known: dict[tuple[Any, ...], str] = {}
        self._numbers = itertools.count()

    def _name(self, stem: str) -> str:
        return f"{stem}_{next(self._numbers)}"

    def input(self, name: str, shape: Sequence[int | str], dtype: npt.DTypeLike = np.float32) -> str:
        """Declare an input of the graph."""
        self._inputs.append(self._value_info(name, dtype, shape))
        return name

    def optional_input(self, name: str, default: npt.NDArray[Any]) -> str:
        """Declare an input that has a default."""
        self._constants.append(self._onnx.numpy_helper.from_array(default, name))
        return self.input(name, default.shape, default.dtype)

    def output(self, name: str, value: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> None:
        """Declare `value` an output of the graph, called `name`."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [name]))
        self._outputs.append(self._value_info(name, dtype, shape))

    def const(self, value: Any) -> str:
        """Store a constant; lists become int64. Equal constants are stored once."""
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self._name("constant")
            self._constants.append(self._onnx.numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node with `count` outputs."""
        outputs = [self._name(kind) for _ in range(count)]
        for key, value in attributes.items():
            if isinstance(value, np.ndarray):
                attributes[key] = self._onnx.numpy_helper.from_array(value)
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def split(self, value: str, count: int) -> list[str]:
        """Split the last axis into `count` equal parts."""
        return self.ops("Split", count, value, axis=-1, num_outputs=count)

    def unsqueeze(self, value: str, axis: int) -> str:
        """Insert an axis of length one."""
        return self.op("Unsqueeze", value, self.const([axis]))

    def column(self, value: str, index: int) -> str:
        """Take column `index` of a matrix, keeping both axes."""
        return self.op("Slice", value, self.const([index]), self.const([index + 1]), self.const([1]))

    def nonzero(self, flags: str) -> str:
        """Return the indices (k,) of the true entries of a vector."""
        return self.op("Squeeze", self.op("NonZero", flags), self.const([0]))

    def inline(self, model: onnx.ModelProto, inputs: Sequence[str]) -> list[str]:
        """Append a whole model, fed by `inputs`; returns its outputs."""
        prefix = self._name("part") + "/"
        names = dict(zip((value.name for value in model.graph.input), inputs, strict=True))

        def rename(name: str) -> str:
            return names.get(name, prefix + name) if name else ""

        for tensor in model.graph.initializer:
            copy = type(tensor)()
            copy.CopyFrom(tensor)
            copy.name = rename(tensor.name)
            self._constants.append(copy)
        for node in model.graph.node:
            assert not any(attribute.HasField("g") for attribute in node.attribute), "control flow is not expected here"
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = ""
            copy.input[:] = [rename(name) for name in node.input]
            copy.output[:] = [rename(name) for name in node.output]
            self._nodes.append(copy)
        return [rename(value.name) for value in model.graph.output]

    def finish(self) -> onnx.ModelProto:
        """Return the checked model, without a trace of the machine it was made on."""
        helper = self._onnx.helper
        parts: list[Any] = [*self._nodes, *self._constants]
        for part in parts:
            part.doc_string = ""
            del part.metadata_props[:]
        graph = helper.make_graph(self._nodes, "livermargin", self._inputs, self._outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        self._onnx.checker.check_model(model)
        return model

    def _value_info(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
        helper = self._onnx.helper
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))
