"""How a run's network is run: weights, a trial on the run's own images, the settled choice."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial

from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.trial import Choice, SampleSource, settle
from vision_ops.card import read_card
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.inputs import kind_of_input
from vision_ops.operators.classify import ClassifierConfig
from vision_ops.precision.choose import Sample, choose, untried
from vision_ops.precision.verdicts import Request, Verdict, recall
from vision_ops.weights import Resolved, cache_folder

logger = logging.getLogger(__name__)

UNTRIED_ROWS = 256
"""below, to compile the network takes longer than to run it as it is"""


def facts(weights: Resolved) -> dict[str, object]:
    """What the manifest says of the weights."""
    card = weights.card
    return {
        "source": weights.source,
        "sha256": weights.sha256,
        "licence": card.licence,
        "network": card.network,
        "kind": kind_of_input(card.preprocess),
        "preprocess": card.preprocess,
        "classes": card.classes,
    }


def make_request(
    op: ClassifierConfig, decode: DecodeConfig, weights: Resolved, source: SampleSource
) -> Request:
    """What is asked of `choose`; only fp32 needs no image to judge by."""
    return Request(
        weights=str(weights.path),
        sha256=weights.sha256,
        precision=op.precision,
        embeddings=op.embeddings,
        pass_size=op.pass_size,
        compiled=op.compiled,
        sample="" if op.precision == "fp32" else f"{source.name} {decode}",
        folder=str(cache_folder()),
    )


def choose_network(
    run: Run,
    resources: Resources,
    request: Request,
    decode: DecodeConfig,
    source: SampleSource,
    rows: int = -1,
) -> Choice:
    """How the network is run, settled once for a run directory; of so few rows, without a trial."""
    files = {"weights": request.weights}
    settled = partial(
        settle, run, resources, recall=partial(recalled, request), files=files, shared=source.shared
    )
    if 0 <= rows < UNTRIED_ROWS and request.precision == "fp32" and not request.compiled:
        choice = settled(try_out=partial(as_it_is, request), told="")
    else:
        choice = settled(try_out=partial(try_out, request, decode, source))
    logger.info("network: %s", Verdict(**choice.verdict))
    return choice


def recalled(request: Request) -> Choice | None:
    """What an earlier trial of this request found on this machine."""
    found = recall(request)
    return Choice(verdict=asdict(found[0]), path=found[1]) if found else None


def as_it_is(request: Request, files: Mapping[str, str]) -> Choice:
    """The network in fp32, by what reads its file."""
    verdict, path = untried(replace(request, weights=files["weights"]))
    return Choice(verdict=asdict(verdict), path=path)


def try_out(
    request: Request, decode: DecodeConfig, source: SampleSource, files: Mapping[str, str]
) -> Choice:
    """Time and judge the network on a sample of the run; runs where the actors will be."""
    request = replace(request, weights=files["weights"], folder=str(cache_folder()))
    verdict, path = choose(request, sample_for(request, decode, source) if request.sample else None)
    return Choice(verdict=asdict(verdict), path=path)


def sample_for(request: Request, decode: DecodeConfig, source: SampleSource) -> Sample:
    """Pictures to judge by, as the run decodes them and exactly, and others to calibrate by."""
    preprocess = read_card(request.weights).preprocess
    exact = make_decoder(replace(decode, mode="exact"), preprocess)
    judged, truth, calibration = source.pictures(make_decoder(decode, preprocess), exact)
    return Sample(judged=judged, exact=truth, calibration=calibration)
