"""What match_faces can be asked for: a dataclass per word of the command line."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from jobs.pictures.faces.labelled import Choice
from jobs.runtime.resources import Resources
from jobs.runtime.storage import StorageConfig
from vision_ops.faces.clusters import Method

RUN, GALLERY = "runs/embed_faces", "runs/gallery"


@dataclass(frozen=True, kw_only=True)
class Enrol:
    """Add people from a labelled run of embed_faces; one picture a person is enough."""

    run: str = RUN
    """run directory of a finished embed_faces, local path or s3:// URI"""
    gallery: str = GALLERY
    """directory of the gallery, local path or s3:// URI; a new one is made"""
    labels: str = ""
    """CSV or Parquet file with the columns id and label (the person); empty: the rows' truth"""
    choice: Choice = "largest"
    """which face is the person's where a labelled picture holds several: the one of the largest
    box, or the surest; of equals the surer one"""
    min_quality: float = 0.0
    """faces of lower quality are not enrolled"""
    per_person: int = 0
    """enrol so many faces of each person, those of best quality; 0: all"""
    calibration: str = ""
    """calibration.json of jobs.evaluate, kept in the gallery from now on"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""

    def __post_init__(self) -> None:
        if not 0 <= self.min_quality <= 1:
            raise ValueError(f"min_quality: {self.min_quality}, must be in 0..1")
        if self.per_person < 0:
            raise ValueError(f"per_person: {self.per_person}, must not be negative")


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Remove people, or single faces, so that no trace of them is left in the gallery."""

    gallery: str = GALLERY
    """directory of the gallery"""
    person: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """a person's name; may be given several times"""
    id: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """id of an enrolled face (<row id>#face<k>) or of its picture; may be given several times"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""

    def __post_init__(self) -> None:
        if not (self.person or self.id):
            raise ValueError("remove: nobody named; give --person NAME or --id ID")


@dataclass(frozen=True, kw_only=True)
class Show:
    """Say who is in a gallery, and of which embedder it is."""

    gallery: str = GALLERY
    """directory of the gallery"""
    people: bool = False
    """name everyone, with the number of their faces"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """How alike two faces are, and what that means."""

    head: str = "cosine"
    """cosine, squared_l2, or the file of a trained head of similarity"""
    threshold: float | None = None
    """lowest similarity that is the same person; else the calibration says"""
    calibration: str = ""
    """calibration.json of jobs.evaluate; empty: the gallery's own, else
    runs/evaluate_faces/calibration.json"""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Pairs of pictures (1:1): similarity, probability, same or different person."""

    run: str = RUN
    """run directory of a finished embed_faces that holds both sides of all pairs"""
    pairs: str
    """CSV with the columns a and b (ids of rows, or of faces: <row id>#face<k>) and perhaps same,
    or LFW's pairs.txt"""
    out: str = "runs/match_faces/verify"
    """run directory, local path or s3:// URI"""
    similarity: Annotated[Similarity, tyro.conf.arg(name="")] = Similarity()
    """how alike two faces are"""
    far: float = 1e-3
    """wanted share of pairs of two people that are called the same, with a calibration"""
    choice: Choice = "largest"
    """which face stands for a picture of several"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""


@dataclass(frozen=True, kw_only=True)
class SearchResources:
    """How a gallery is searched: how fast; never changes a result."""

    engine: Literal["auto", "ray", "inline"] = "auto"
    """ray: the gallery is shared out to actors; inline: this process; auto: inline where the work
    does not repay Ray's start, and no cluster is named"""
    actors: int = 0
    """shards of the gallery on Ray; 0: as many as fit the CPUs"""
    num_cpus: int = 0
    """CPUs of a local Ray; 0: all of this machine"""
    verbose: bool = False
    """show Ray's own messages and start its dashboard"""

    def __post_init__(self) -> None:
        self.whole()

    def whole(self) -> Resources:
        """As every engine takes them; searching is done on CPUs."""
        return Resources(
            engine=self.engine,
            actors=self.actors,
            num_cpus=self.num_cpus,
            verbose=self.verbose,
            gpus_per_actor=0,
        )


@dataclass(frozen=True, kw_only=True)
class Identify:
    """Who is it (1:N): for each face of a run the nearest people of the gallery, and a name."""

    run: str = RUN
    """run directory of a finished embed_faces: the probes"""
    gallery: str = GALLERY
    """directory of the gallery"""
    out: str = "runs/match_faces/identify"
    """run directory, local path or s3:// URI"""
    similarity: Annotated[Similarity, tyro.conf.arg(name="")] = Similarity()
    """how alike two faces are"""
    fpir: float = 0.0
    """wanted share of strangers who are given a name, with a calibration: at this gallery's size
    and faces per person; 0: 0.01, or the least that the calibration can tell, and that is said"""
    k: int = 5
    """people named for each face, nearest first"""
    similarity_only: bool = False
    """name nobody: only the nearest and their similarity; needs no threshold"""
    resources: SearchResources = SearchResources()
    """how it is searched"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k: {self.k}, must be at least 1")
        if self.similarity_only and self.similarity.threshold is not None:
            raise ValueError("similarity_only: names nobody; --threshold would name somebody")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Who belongs together: the faces of a run, unlabelled, as people."""

    run: str = RUN
    """run directory of a finished embed_faces"""
    out: str = "runs/match_faces/cluster"
    """run directory, local path or s3:// URI"""
    similarity: Annotated[Similarity, tyro.conf.arg(name="")] = Similarity()
    """how alike two faces are"""
    far: float = 1e-3
    """wanted share of pairs of two people above the threshold, with a calibration"""
    method: Method = "average"
    """average: agglomerative, by the mean similarity of two groups; dbscan: by dense chains"""
    min_faces: int = 2
    """a person has so many faces; a smaller group is nobody (dbscan: its min_samples)"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""

    def __post_init__(self) -> None:
        if self.min_faces < 1:
            raise ValueError(f"min_faces: {self.min_faces}, must be at least 1")
