"""A backward pass of our own across the borders of sharded modules, in pieces.

FSDP2 puts nodes and hooks of its own where a sharded module begins and ends: a pass that comes to one in mid-forward gathers
weights, frees those that are in use, and averages gradients that are none. So a pass ends on the near side of each border, and
another begins on the far side. Behind a module's end there are no weights any more: where they are needed, g is found before they
go.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from lngd.sampling.pull import pull_back

Key: TypeAlias = tuple[Node, int]


@dataclass(frozen=True)
class Cut:
    """A tensor crosses a border: `near` is the edge where a pass may end, `far` that where the next one begins.

    `number` counts the crossings.
    """

    near: GradientEdge
    far: GradientEdge
    number: int


class Borders:
    """The borders that tensors have crossed since the forward began.

    A step back from a border leads to borders that were crossed before it, so the last one goes first: then all that comes to one
    is there when it is its turn.
    """

    def __init__(self) -> None:
        self.cuts: dict[Key, Cut] = {}

    def __bool__(self) -> bool:
        return bool(self.cuts)

    def add(self, near: Tensor, far: GradientEdge) -> None:
        """A tensor has crossed one."""
        edge = get_gradient_edge(near)
        self.cuts[_key(edge)] = Cut(edge, far, len(self.cuts))

    def pull(self, outputs: Tensor, grads: Tensor, edges: Sequence[GradientEdge]) -> list[Tensor | None]:
        """Jᵀ·grads at each edge; None where nothing leads to, or only a way round a border that another way crosses."""
        wanted, floor = {_key(edge): k for k, edge in enumerate(edges)}, _first(edges)
        start = get_gradient_edge(outputs)
        arrived, found, lost = {_key(start): grads}, dict[int, Tensor](), set[Key]()
        while arrived:
            here = max(arrived, key=lambda key: self.cuts[key].number if key in self.cuts else len(self.cuts))
            edge = self.cuts[here].far if here in self.cuts else start
            reached = self._reached(edge, wanted, floor)
            behind = set[Key]().union(*(self._behind(key, wanted, floor) for key in reached if key in self.cuts))
            twice = reached & behind
            lost |= twice.union(*(self._behind(key, wanted, floor) for key in twice if key in self.cuts))
            targets = sorted(reached - lost, key=lambda key: (key in self.cuts, wanted.get(key, 0)))
            into = [self.cuts[key].near if key in self.cuts else edges[wanted[key]] for key in targets]
            grad = arrived.pop(here)
            gs = pull_back(edge, grad, into) if into else ()
            for key, g in zip(targets, gs, strict=True):
                if g is None:
                    continue
                if key in self.cuts:
                    arrived[key] = arrived[key] + g if key in arrived else g
                else:
                    place = wanted[key]
                    found[place] = found[place] + g if place in found else g
        return [None if _key(edge) in lost else found.get(k) for k, edge in enumerate(edges)]

    def needs_weights(self, outputs: Iterable[Tensor], edges: Sequence[GradientEdge]) -> bool:
        """Whether a trained weight is used between some tensors and these edges."""
        wanted, floor = {_key(edge): k for k, edge in enumerate(edges)}, _first(edges)
        leads: dict[Node, bool] = {}
        starts = [get_gradient_edge(t) for t in outputs]
        stack = [edge.node for edge in starts if _key(edge) not in wanted]
        while stack:
            node = stack[-1]
            if node in leads:
                stack.pop()
                continue
            children = [self._across((c, number)) for c, number in node.next_functions if c is not None]
            ahead = [c for c, number in children if (c, number) not in wanted and c not in leads and not _is_before(c, floor)]
            if ahead:
                stack.extend(ahead)
                continue
            stack.pop()
            leads[node] = any((c, number) in wanted or leads.get(c, False) for c, number in children)
            if leads[node] and any(hasattr(c, "variable") for c, _ in children):
                return True
        return False

    def _reached(self, start: GradientEdge, wanted: Mapping[Key, int], floor: int) -> set[Key]:
        """What of the edges and of the borders a pass comes to first; behind either it has nothing to do."""
        if _key(start) in wanted or _key(start) in self.cuts:
            return {_key(start)}
        nodes, found = {node for node, _ in (*self.cuts, *wanted)}, set[Key]()
        stack, seen = [start.node], {start.node}
        while stack:
            for child, number in stack.pop().next_functions:
                if child is None:
                    continue
                if (child, number) in wanted or (child, number) in self.cuts:
                    found.add((child, number))
                if child not in seen and child not in nodes and not _is_before(child, floor):
                    seen.add(child)
                    stack.append(child)
        return {key for key in found if key in wanted or not _is_before(key[0], floor)}

    def _behind(self, border: Key, wanted: Mapping[Key, int], floor: int) -> set[Key]:
        """What a pass comes to behind a border, and behind the borders there."""
        found, waiting = set[Key](), [border]
        while waiting:
            new = self._reached(self.cuts[waiting.pop()].far, wanted, floor) - found
            found |= new
            waiting.extend(key for key in new if key in self.cuts)
        return found

    def _across(self, child: Key) -> Key:
        """The edge itself, or the one behind it if it is a border."""
        return _key(self.cuts[child].far) if child in self.cuts else child


def _key(edge: GradientEdge) -> Key:
    return edge.node, edge.output_nr


def _first(edges: Sequence[GradientEdge]) -> int:
    """The number of the node that was made first."""
    return min((_number(edge.node) for edge in edges), default=0)


def _number(node: Node) -> int:
    """Nodes are numbered as they are made: what a node leads to has a smaller number."""
    return int(node._sequence_nr())


def _is_before(node: Node, floor: int) -> bool:
    return _number(node) < floor
