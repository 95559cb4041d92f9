"""Learners: networks with their losses and optimisers, by name."""

from vision_ops.learners.classify import ClassifierLearner
from vision_ops.learners.faces import FaceLearner
from vision_ops.learners.localize import LocalizerLearner
from vision_ops.learners.style import StyleLearner

LEARNERS = {
    "classify": ClassifierLearner,
    "faces": FaceLearner,
    "localize": LocalizerLearner,
    "style": StyleLearner,
}
