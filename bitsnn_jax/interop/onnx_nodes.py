"""The program of an ONNX file, as data."""

from typing import Literal

from msgspec import Struct

from bitsnn_jax.interop.program_inputs import Input

Attribute = int | float | str | list[int | float | str]


class Node(Struct, frozen=True):
    """One operation.

    Attributes:
      operator: its name in ONNX.
      scope: dotted path of the module that it stands in, or its name.
      inputs, outputs: names of values; "" for an input that is left out.
      attributes: by name.
    """

    operator: str
    scope: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Attribute]


class Program(Struct, frozen=True):
    """The nodes of a file.

    Attributes:
      inputs: what it takes.
      nodes: in order.
      outputs: names of what it returns.
      batch: how the first axis of an input may vary. "any": freely; "mapped": the
        program is for a batch of one, and is mapped over others; "fixed": not at all.
    """

    inputs: list[Input]
    nodes: list[Node]
    outputs: list[str]
    batch: Literal["any", "mapped", "fixed"] = "any"
