"""How an agent's training is run: how fast, how patient."""

from dataclasses import dataclass

from jobs.runtime.resources import Resources

FEW_CPUS = 4
"""up to which acting and learning share one process: another one costs more than it brings"""


@dataclass(frozen=True, kw_only=True)
class NavigationResources:
    """How an agent's training is run: how fast, how patient."""

    env_runners: int = -1
    """processes that act in worlds; 0: the learner's own does; -1: 0 on up to four CPUs, else one
    on each that is free but one. Sums of floats, and so the run, differ with their number"""
    cpus_per_env_runner: float = 1.0
    """CPUs that each reserves"""
    learners: int = 0
    """processes that share each batch's gradient; 0: this one learns"""
    gpus_per_learner: float = 0.0
    """GPUs of each learner"""
    num_cpus: int = 0
    """CPUs of a local Ray; 0: all of this machine"""
    max_restarts: int = 1_000
    """times that lost env runners are replaced"""
    checkpoint_every_s: float = 60.0
    """work that a kill may cost"""
    verbose: bool = False
    """show Ray's own messages and start its dashboard"""

    def __post_init__(self) -> None:
        if self.env_runners < -1:
            raise ValueError(f"resources.env_runners {self.env_runners}: must be at least -1")
        for name in ("learners", "gpus_per_learner", "num_cpus", "max_restarts"):
            if getattr(self, name) < 0:
                raise ValueError(f"resources.{name} {getattr(self, name)}: must not be negative")
        if self.cpus_per_env_runner <= 0 or self.checkpoint_every_s < 0:
            raise ValueError("resources: cpus_per_env_runner must be above 0, no time negative")

    @property
    def ray(self) -> Resources:
        """The part that starting Ray needs."""
        return Resources(num_cpus=self.num_cpus, verbose=self.verbose)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an algorithm's parts run: all in this process, if nothing else is said."""

    env_runners: int = 0
    """processes that act in worlds; 0: this one does"""
    cpus_per_env_runner: float = 1.0
    learners: int = 0
    """processes that share each batch's gradient; 0: this one learns"""
    gpus_per_learner: float = 0.0
    max_restarts: int = 0
    """times that lost env runners are replaced"""


def place(
    resources: NavigationResources, cpus: float, gpus: float, free_cpus: float | None = None
) -> Placement:
    """Where the parts run on so many CPUs and GPUs, of which others use what is not free.

    A learner takes a CPU, or its GPUs alone. Raises ValueError, with the numbers, where the parts
    do not fit: RLlib would wait for ever.
    """
    runners, learners = resources.env_runners, resources.learners
    for_learners = 0 if resources.gpus_per_learner else learners
    if runners < 0:
        free = min(cpus, cpus if free_cpus is None else free_cpus)
        many = int((free - 1 - for_learners) / resources.cpus_per_env_runner)
        runners = 0 if cpus <= FEW_CPUS else max(0, many)
    needed = runners * resources.cpus_per_env_runner + for_learners
    on_gpus = max(1, learners) * resources.gpus_per_learner
    if needed > cpus or on_gpus > gpus:
        raise ValueError(
            f"resources: {runners} env runners of {resources.cpus_per_env_runner:g} CPU and "
            f"{learners} learners of {resources.gpus_per_learner:g} GPU do not fit "
            f"{cpus:g} CPUs and {gpus:g} GPUs"
        )
    return Placement(
        env_runners=runners,
        cpus_per_env_runner=resources.cpus_per_env_runner,
        learners=learners,
        gpus_per_learner=resources.gpus_per_learner,
        max_restarts=resources.max_restarts,
    )
