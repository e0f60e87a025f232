"""What ``import recsys`` may cost a web process."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "alembic",
    "sqlalchemy",
    "click",
    "rich",
    "onnx",
    "onnxruntime",
    "safetensors",
    "optuna",
    "django",
    "flask",
    "prometheus_client",
    "opentelemetry",
)


def loaded(statement: str) -> set[str]:
    """Top-level modules a fresh interpreter has after the statement."""
    code = f"import json, sys; {statement}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_import_recsys_loads_nothing_heavy() -> None:
    modules = loaded("import recsys")

    assert "recsys" in modules
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "statement",
    [
        "from recsys import Recommender; Recommender('shop', dsn='host=nowhere')",
        "import recsys.schema, recsys.versions, recsys.artifacts",
        "import recsys.backfill, recsys.evaluate, recsys.compare, recsys.doctor",
        "import recsys.pipeline, recsys.tuning",
    ],
)
def test_the_library_modules_load_neither_torch_nor_the_cli(statement: str) -> None:
    modules = loaded(statement)

    assert modules.isdisjoint(set(HEAVY) - {"alembic", "sqlalchemy"})


def test_a_recommender_connects_to_nothing_before_the_first_request() -> None:
    from recsys import Recommender

    with Recommender("shop", dsn="host=/nowhere port=1"):
        pass
