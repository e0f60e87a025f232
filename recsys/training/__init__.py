"""Training: the only part of the package that imports torch.

``read`` turns the sources of a model into a ``Dataset``; ``train`` turns a
``Dataset`` into a ``TrainedModel``: towers, ID embeddings and a report.
``recsys.training.metrics`` needs numpy alone; the database-side evaluator shares it.
"""
