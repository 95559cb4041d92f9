"""Who is who: people enrolled in a gallery, and faces verified, identified or told apart.

    python -m jobs.match_faces enrol                     # the people of runs/embed_faces
    python -m jobs.match_faces identify --run runs/others --threshold 0.4
    python -m jobs.match_faces verify --pairs pairs.txt --threshold 0.4
    python -m jobs.match_faces cluster --threshold 0.4
    python -m jobs.match_faces remove --person "Ada Lovelace"
    python -m jobs.match_faces show --people

reads    finished runs of embed_faces; a gallery; a calibration.json of jobs.evaluate

writes   enrol, remove: the gallery. The others a run directory of their own:
         identify  results/part-*.parquet  a row per face: id (<row id>#face<k>), image, uri, truth,
                                           status, stage, error, face, box, quality, enrolled,
                                           match (null: unknown), similarity, probability,
                                           top_people, top_similarities
         cluster   results/part-*.parquet  the same up to quality, and person (null: nobody)
         verify    results/part-*.parquet  a row per pair: a, b, truth, status, stage, error,
                                           similarity, probability, same
         report/index.html
         An image that failed or holds no face has one row, with nulls.
"""

import sys
from typing import Annotated

import tyro

from jobs.pictures.faces.matching.clustering import cluster_faces
from jobs.pictures.faces.matching.enrolment import Enrolment, enrol, remove, show
from jobs.pictures.faces.matching.identification import identify
from jobs.pictures.faces.matching.requests import Cluster, Enrol, Identify, Remove, Show, Verify
from jobs.pictures.faces.matching.verification import verify
from jobs.runtime.command import run_command
from jobs.runtime.run import Run
from vision_ops.faces.gallery import Change

Config = (
    Annotated[Enrol, tyro.conf.subcommand("enrol")]
    | Annotated[Remove, tyro.conf.subcommand("remove")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Identify, tyro.conf.subcommand("identify")]
    | Annotated[Cluster, tyro.conf.subcommand("cluster")]
)
Request = Enrol | Remove | Show | Verify | Identify | Cluster


def main(config: Request) -> Enrolment | Change | Run | dict[str, str]:
    """Do one of the six; returns what it made. Raises ValueError for a wrong request."""
    match config:
        case Enrol():
            return enrol(config)
        case Remove():
            return remove(config)
        case Show():
            lines = show(config)
            width = max(map(len, lines))
            sys.stdout.writelines(f"{name:<{width}}  {value}\n" for name, value in lines.items())
            return lines
        case Verify():
            return verify(config)
        case Identify():
            return identify(config)
        case Cluster():
            return cluster_faces(config)


if __name__ == "__main__":
    run_command(main, tyro.cli(Config, prog="python -m jobs.match_faces", description=__doc__))
