"""What can be done to a batch of pictures, by name: each operator is put to the same laws."""

from vision_ops.operators.classify import Classifier

OPERATORS: dict[str, type[Classifier]] = {
    "classify": Classifier,
}
