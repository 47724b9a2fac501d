"""The source text in a TorchScript archive, read before PyTorch reads it, and written anew.

`torch.jit.load` evaluates parts of the text: default arguments and class constants (`w: Tensor=torch.from_file(...)`)
and the body of `__setstate__`. So the text is parsed here, as the Python it is a subset of, and handed on in one form
only: whatever two parsers could disagree about (comments, blanks, line ends, quotes) is gone.
"""

from __future__ import annotations

import ast
import re
import warnings

from compress.formats.torchscript.operators import computes

__all__ = ["STRUCTURE", "Forbidden", "rewritten"]

STRUCTURE = frozenset(
    """
    Constant GetAttr SetAttr If Loop ListConstruct ListUnpack TupleConstruct TupleUnpack TupleIndex TupleSlice
    DictConstruct CreateObject NumToTensor RaiseException Uninitialized unchecked_cast unchecked_unwrap_optional
    isinstance rangelist tolist device dtype layout is_cuda is_cpu is_meta is_sparse is_quantized is_nested shape
    data type requires_grad ndim itemsize nbytes index min max abs range_length DictIndex StringIndex TensorIndex
    """.split()  # noqa: SIM905 - as the list it is
)
"""Operators of TorchScript's own (`prim::`) that shape a program: constants, attributes, branches, lists, types."""

_BASES = frozenset({"Module", "NamedTuple", "Enum", "ModuleInterface", "ClassInterface"})
_CONSTRUCTS = (
    *(ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Expr, ast.Pass, ast.Assign),
    *(ast.AnnAssign, ast.AugAssign, ast.For, ast.While, ast.If, ast.IfExp, ast.Break, ast.Continue, ast.Name),
    *(ast.Attribute, ast.Call, ast.keyword, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Subscript, ast.Slice),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
)
_SPECIAL_NUMBERS = frozenset({"inf", "nan"})


class Forbidden(Exception):
    """The code holds what is more than computing; the message names it."""


def rewritten(text: bytes) -> bytes:
    """The same program, in the one form that is handed on.

    Raises:
        Forbidden: something would run while the file is loaded, or an operator does more than compute.
    """
    tree = _parsed(text)
    for node in ast.walk(tree):
        if not isinstance(node, _CONSTRUCTS):
            raise Forbidden(f"the statement {type(node).__name__}")
    try:
        for node in ast.walk(tree):
            _check_definition(node)
        _Names().visit(tree)
        return ast.unparse(_Literals().visit(tree)).encode("ascii") + b"\n"
    except RecursionError as error:
        raise Forbidden("code that is nested too deep") from error


def _parsed(text: bytes) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown escapes; strings are written anew
            # one character per byte: a string's bytes are kept whatever their encoding
            return ast.parse(text.decode("latin-1"))
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError) as error:
        raise Forbidden("code that cannot be read") from error


def _check_definition(node: ast.AST) -> None:
    if isinstance(node, ast.Module):
        if not all(isinstance(part, ast.ClassDef | ast.FunctionDef) for part in node.body):
            raise Forbidden("statements outside classes and functions")
    elif isinstance(node, ast.ClassDef):
        _check_class(node)
    elif isinstance(node, ast.FunctionDef):
        if node.name == "__setstate__":
            raise Forbidden(node.name)
        if node.decorator_list or node.args.posonlyargs or node.args.vararg or node.args.kwarg:
            raise Forbidden(f"the signature of {node.name}")
        for default in (*node.args.defaults, *node.args.kw_defaults):
            _check_literal(default, f"the default argument of {node.name}")


def _check_class(node: ast.ClassDef) -> None:
    bases = [base.id if isinstance(base, ast.Name) else "" for base in node.bases]
    if node.decorator_list or node.keywords or len(bases) > 1 or not _BASES.issuperset(bases):
        raise Forbidden(f"the class {node.name}")
    for part in node.body:
        if isinstance(part, ast.Assign | ast.AnnAssign):
            declares = isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Subscript)
            if not declares:  # `__annotations__["0"] = Tensor` gives a type, which `_Names` looks at
                _check_literal(part.value, f"the constant {ast.unparse(part).split(' ')[0]} of {node.name}")
        elif not isinstance(part, ast.FunctionDef | ast.Pass):
            raise Forbidden(f"the class {node.name}")


def _check_literal(value: ast.expr | None, subject: str) -> None:
    """Refuse what a constant or a default may not be: it is evaluated while the file is loaded."""
    if value is None or isinstance(value, ast.Constant):
        return
    if isinstance(value, ast.Name) and value.id in _SPECIAL_NUMBERS:
        return
    if isinstance(value, ast.Tuple | ast.List):
        parts: list[ast.expr] = value.elts
    elif isinstance(value, ast.Dict):
        parts = [*(key for key in value.keys if key is not None), *value.values]
    elif isinstance(value, ast.UnaryOp):
        parts = [value.operand]
    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("annotate", "float"):
        parts = value.args[-1:]  # `annotate(List[int], [])`, and `float("inf")`
    else:
        raise Forbidden(subject)
    for part in parts:
        _check_literal(part, subject)


class _Names(ast.NodeVisitor):
    """Refuses operators that do more than compute, wherever they are named."""

    def visit_Attribute(self, node: ast.Attribute) -> None:
        parts: list[str] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            parts.insert(0, base.attr)
            base = base.value
        if not isinstance(base, ast.Name):
            self.visit(base)
        elif base.id == "torch" and not (len(parts) == 1 and computes(parts[0])):
            raise Forbidden(f"torch.{'.'.join(parts)}")
        elif base.id == "ops" and not _is_operator(parts):
            raise Forbidden(f"ops.{'.'.join(parts)}")
        elif base.id == "__torch__" and parts[:2] == ["torch", "classes"]:
            raise Forbidden(f"__torch__.{'.'.join(parts)}")
        self.visit_plain(*parts)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in ("torch", "ops", "fork", "awaitable"):  # whole, they could be looked into by other means
            raise Forbidden(node.id)
        self.visit_plain(node.id)

    def visit_plain(self, *names: str) -> None:
        for name in names:
            if not name.isascii():
                raise Forbidden("a name that is not ASCII")


def _is_operator(parts: list[str]) -> bool:
    if len(parts) != 2:
        return False
    return parts[1] in STRUCTURE if parts[0] == "prim" else parts[0] == "aten" and computes(parts[1])


class _Literals(ast.NodeTransformer):
    """Writes numbers and strings as TorchScript does."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, str):
            return ast.Name(_quoted(node.value))
        if isinstance(node.value, float) and node.value == float("inf"):
            return ast.Name("inf")
        if isinstance(node.value, bytes) or node.value is Ellipsis:
            raise Forbidden("a constant that TorchScript has not")
        return node


def _quoted(text: str) -> str:
    """A string literal of ASCII characters, one character of `text` per byte."""
    if any(ord(letter) > 255 for letter in text):
        raise Forbidden("a string that is not bytes")
    return '"' + re.sub(r'[^ -~]|["\\]', lambda letter: f"\\{ord(letter[0]):03o}", text) + '"'
