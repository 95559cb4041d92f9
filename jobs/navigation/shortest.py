"""Fewest actions to the goal in MiniGrid, where nothing but walls and doors is in the way."""

import heapq
from typing import Any

import gymnasium

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""x, y of MiniGrid's four headings: right, down, left, up"""


def shortest_actions(env: gymnasium.Env) -> int:
    """Fewest actions from here to the goal; -1 where that is not known.

    Dijkstra over cells and headings; a turn and a step cost one action each, a closed door one more
    for its opening. Not known: worlds that are no grid, that are about something else than to
    reach the goal, or where a locked door, lava or a thing that moves is to be dealt with.
    """
    world: Any = env.unwrapped
    grid = getattr(world, "grid", None)
    if grid is None or not hasattr(world, "agent_dir") or not hasattr(grid, "get"):
        return -1
    cells = {(x, y): grid.get(x, y) for x in range(grid.width) for y in range(grid.height)}
    kinds = {cell.type for cell in cells.values() if cell is not None}
    locked = any(getattr(cell, "is_locked", False) for cell in cells.values())
    if "goal" not in kinds or not kinds <= {"goal", "wall", "door"} or locked:
        return -1
    start = (*map(int, world.agent_pos), int(world.agent_dir))
    queue, known = [(0, start)], {start: 0}
    while queue:
        cost, (x, y, heading) = heapq.heappop(queue)
        cell = cells[x, y]
        if cell is not None and cell.type == "goal":
            return cost
        if cost > known[x, y, heading]:
            continue
        turns = [(cost + 1, (x, y, (heading + turn) % 4)) for turn in (1, 3)]
        ahead = (x + STEPS[heading][0], y + STEPS[heading][1])
        front = cells.get(ahead)
        if ahead in cells and (front is None or front.type != "wall"):
            closed = front is not None and front.type == "door" and not front.is_open
            turns.append((cost + 1 + closed, (*ahead, heading)))
        for price, state in turns:
            if price < known.get(state, price + 1):
                known[state] = price
                heapq.heappush(queue, (price, state))
    return -1
