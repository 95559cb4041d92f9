"""What is too large for one process, shared out to Ray actors that are all asked the same."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayTaskError

from jobs.runtime.ray_start import start_ray
from jobs.runtime.resources import Resources, make_pool

Share = TypeVar("Share")
Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Shards(Generic[Question, Answer]):
    """Actors, each with its share of something; asked, all of them answer.

    An actor whose node is lost is made again from its share, and asked again.
    """

    def __init__(
        self,
        make: Callable[[Share], Callable[[Question], Answer]],
        shares: Sequence[Share],
        cpus_per_actor: float,
    ) -> None:
        """`make(share)` runs in each actor; what it returns answers. Ray has been started."""
        kept = {"num_cpus": cpus_per_actor, "max_restarts": -1, "max_task_retries": -1}
        actor: Any = ray.remote(**kept)(_Shard)
        self.actors = [actor.remote(make, share) for share in shares]

    def __call__(self, question: Question) -> list[Answer]:
        """The answer of every share, in order. Safe in threads: shards take turns by themselves."""
        sent = ray.put(question)
        try:
            return ray.get([actor.answer.remote(sent) for actor in self.actors])
        except RayTaskError as failure:
            raise RuntimeError(f"shard: {failure.cause!r}") from failure

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)


class _Shard:
    def __init__(self, make: Callable[[Any], Callable[[Any], Any]], share: Any) -> None:
        self.function = make(share)

    def answer(self, question: Any) -> Any:
        return self.function(question)


def start_shards(
    make: Callable[[Share], Callable[[Question], Answer]],
    parts: Sequence[Any],
    share_of: Callable[[Sequence[Any]], Share],
    resources: Resources,
) -> Shards[Question, Answer]:
    """Start Ray, deal `parts` out by turns to as many actors as fit, and give each its share."""
    start_ray(resources)
    pool = make_pool(resources, ray.cluster_resources().get("CPU", 0), 0)
    count = max(1, min(pool.actors, len(parts)))
    dealt = [share_of(parts[k::count]) for k in range(count)]
    return Shards(make, dealt, pool.cpus_per_actor)
