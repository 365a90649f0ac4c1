"""Mutation operators: those of cosmic-ray whose mutants are worth a test, and the removal of a
statement."""

import ast
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.operators import boolean_replacer, break_continue
from cosmic_ray.operators.binary_operator_replacement import operators as binary_operators
from cosmic_ray.operators.comparison_operator_replacement import operators as comparison_operators
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.unary_operator_replacement import ReplaceUnaryOperator_Delete_Not
from cosmic_ray.operators.zero_iteration_for_loop import ZeroIterationForLoop

Position = tuple[tuple[int, int], tuple[int, int]]

SWAPPED = {
    "ReplaceBinaryOperator_Add_Sub",
    "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBinaryOperator_Mul_Div",
    "ReplaceBinaryOperator_Div_Mul",
    "ReplaceBinaryOperator_FloorDiv_Mul",
    "ReplaceComparisonOperator_Eq_NotEq",
    "ReplaceComparisonOperator_NotEq_Eq",
    "ReplaceComparisonOperator_Lt_LtE",
    "ReplaceComparisonOperator_Lt_GtE",
    "ReplaceComparisonOperator_LtE_Lt",
    "ReplaceComparisonOperator_LtE_Gt",
    "ReplaceComparisonOperator_Gt_GtE",
    "ReplaceComparisonOperator_Gt_LtE",
    "ReplaceComparisonOperator_GtE_Gt",
    "ReplaceComparisonOperator_GtE_Lt",
    "ReplaceComparisonOperator_Is_IsNot",
    "ReplaceComparisonOperator_IsNot_Is",
}
"""One boundary and one opposite of each operator: the others die of the same tests."""


KEPT = {"import_name", "import_from", "string", "strings", "keyword", "assert_stmt"}


class RemoveStatement(Operator):  # type: ignore[misc]
    """The operator that replaces a simple statement by ``pass``.

    Left out are those that no test of behaviour can miss: imports, docstrings, assertions (they
    tell types), annotations without a value, ``pass``, and log records, which are for people.
    """

    def mutation_positions(self, node: parso.tree.NodeOrLeaf) -> Iterable[Position]:
        if node.type == "simple_stmt" and _is_removable(node.children[0]):
            yield node.start_pos, node.children[0].end_pos

    def mutate(self, node: parso.tree.NodeOrLeaf, index: int) -> parso.tree.NodeOrLeaf:
        statement = parso.parse("pass\n").children[0]
        statement.get_first_leaf().prefix = node.get_first_leaf().prefix
        return statement

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def _is_removable(statement: parso.tree.NodeOrLeaf) -> bool:
    if statement.type in KEPT:
        return False
    if statement.type == "expr_stmt" and statement.children[-1].type == "annassign":
        return len(statement.children[-1].children) > 2
    code: str = statement.get_code(include_prefix=False)
    return not code.startswith(("log.", "log = "))


_OPERATORS: tuple[type[Operator], ...] = (
    RemoveStatement,
    boolean_replacer.AddNot,
    boolean_replacer.ReplaceTrueWithFalse,
    boolean_replacer.ReplaceFalseWithTrue,
    boolean_replacer.ReplaceAndWithOr,
    boolean_replacer.ReplaceOrWithAnd,
    break_continue.ReplaceBreakWithContinue,
    break_continue.ReplaceContinueWithBreak,
    ReplaceUnaryOperator_Delete_Not,
    ZeroIterationForLoop,
    *(
        operator
        for operator in (*binary_operators(), *comparison_operators())
        if operator.__name__ in SWAPPED
    ),
)
OPERATORS = {operator.__name__: operator for operator in _OPERATORS}


class Mutant(NamedTuple):
    """One mutation of a module: ``operator`` at its ``occurrence``, which begins in ``line``."""

    module: str
    operator: str
    occurrence: int
    line: int
    statement: int
    """The first line of its statement."""
    text: str
    """The line in the source, by which a justification names the mutant."""

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.operator}: {self.text}"


def find_mutants(module: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module."""
    nodes = list(ast_nodes(get_ast(source)))
    lines, statements = source.splitlines(), _statements(source)
    for name, operator in OPERATORS.items():
        positions = [at for node in nodes for at in operator().mutation_positions(node)]
        for occurrence, ((line, _), _) in enumerate(positions):
            text = lines[line - 1].strip()
            yield Mutant(module, name, occurrence, line, statements.get(line, line), text)


def _statements(source: str) -> dict[int, int]:
    """Return the first line of the statement, or of its head, that each line belongs to."""
    found: dict[int, int] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            found.update(dict.fromkeys(range(node.lineno, end + 1), node.lineno))
    return found


def mutate(mutant: Mutant, source: str) -> str | None:
    """Return the mutated source; None when it is no Python (a ``*`` of a signature, for one)."""
    operator = OPERATORS[mutant.operator]()
    mutated: str = MutationVisitor.mutate_code(source, operator, mutant.occurrence)
    try:
        compile(mutated, mutant.module, "exec")
    except SyntaxError:
        return None
    return mutated
