"""The command that exports what the database knows to Prometheus."""

from __future__ import annotations

import threading

import click

from recsys.cli.bars import say
from recsys.errors import ConfigError
from recsys.settings import Settings


@click.command()
@click.option("--port", type=int, help="Serve them at this port; 0: any.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.pass_obj
def metrics(settings: Settings, port: int | None, host: str) -> None:
    """Print backlog, workers, versions and their shares as Prometheus metrics.

    The answers are counted in the processes that give them (recsys.prometheus).

    Example:

    \b
        recsys metrics
        recsys metrics --port 9187
    """
    try:
        import prometheus_client

        from recsys.prometheus import Status
    except ImportError as exc:
        raise ConfigError(
            f"this command needs {exc.name}", hint="pip install 'recsys[prometheus]'"
        ) from exc
    registry = prometheus_client.CollectorRegistry()
    registry.register(Status(settings.dsn, every_s=0.0 if port is None else 5.0))
    if port is None:
        click.echo(prometheus_client.generate_latest(registry).decode(), nl=False)
        return
    server, _ = prometheus_client.start_http_server(port, host, registry)
    say(f"Serving http://{host}:{server.server_port}/metrics; Ctrl-C ends it")
    threading.Event().wait()
