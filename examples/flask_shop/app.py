"""What a WSGI server runs: gunicorn app:app, or flask --app app run."""

from shop import create_app

app = create_app()
