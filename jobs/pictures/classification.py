"""Classifying as the engine's work: the decoder, the operator, the columns it adds."""

from dataclasses import replace

import pyarrow as pa

from jobs.runtime.resources import Resources
from jobs.runtime.trial import Choice
from jobs.runtime.work import Work
from vision_ops.card import Card
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.operators.classify import Classifier, ClassifierConfig
from vision_ops.precision import PASS_SIZE, pass_size_of
from vision_ops.precision.verdicts import Verdict
from vision_ops.weights import Resolved

PASSES_PER_CALL = 4
"""on a GPU: it works on one pass while the next is brought to it"""


def make_work(
    op: ClassifierConfig,
    decode: DecodeConfig,
    resources: Resources,
    weights: Resolved,
    choice: Choice | None,
) -> Work:
    """The work of a run whose network was settled; without a choice it is run by torch in fp32."""
    verdict = Verdict(**choice.verdict) if choice else None
    unit = pass_size_of(weights.card.preprocess)
    told, size, path = "chosen when it starts", unit, weights.path
    op = replace(op, precision="fp32")
    if choice and verdict:
        told = f"{verdict.precision} on {verdict.back_end} sha256:{verdict.sha256}"
        size, path = verdict.pass_size, choice.path
        op = replace(op, precision=verdict.precision, pass_size=size, compiled=verdict.compiled)
    return Work(
        decoder=make_decoder(decode, weights.card.preprocess),
        operator=Classifier,
        config=op,
        columns=columns(op, weights.card),
        files={"weights": str(path)},
        metadata={
            "weights": f"{weights.source} sha256:{weights.sha256}",
            "licence": weights.card.licence,
            "preprocess": str(weights.card.preprocess),
            "network": told,
        },
        batch_size=resources.batch_size or size * (1 if size == PASS_SIZE else PASSES_PER_CALL),
    )


def columns(op: ClassifierConfig, card: Card) -> pa.Schema:
    """The columns of a result besides those of every row."""
    fields = [
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("top_labels", pa.list_(pa.string())),
        ("top_confidences", pa.list_(pa.float32())),
    ]
    if op.embeddings:
        fields.append(("embedding", pa.list_(pa.float32(), card.embedding_size)))
    return pa.schema(fields)
