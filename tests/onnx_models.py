"""Small ONNX files, made where the package onnx is installed."""

import numpy as np


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def value_info(name, array, shape=None):
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)
    return helper.make_tensor_value_info(name, kind, shape)


def saved(path, nodes, inputs, outputs, constants=None, *, opset=20, **shapes):
    """Write a file. `inputs` are examples; `shapes` say how the file declares them."""
    import onnx
    from onnx import helper, numpy_helper

    tensors = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(
        nodes,
        "network",
        [value_info(n, a, shapes.get(n, np.shape(a))) for n, a in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        tensors,
    )
    domains = {node.domain for node in nodes} - {""}
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, 1) for domain in domains]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.save(model, path)
    return path
