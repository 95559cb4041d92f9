"""Learners: networks with their losses and optimisers, by name."""

from vision_ops.learners.classify import ClassifierLearner

LEARNERS = {"classify": ClassifierLearner}
