"""The pooler and the browser of the tests are what they claim to be."""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from pathlib import Path

import psycopg
import pytest
import tools
from browser import chromium
from pooler import pooler
from selenium.webdriver.common.by import By

_SCRIPT = Path(__file__).parents[1] / "tools.sh"


def test_a_pooler_hands_the_same_server_session_to_different_clients(server):
    with pooler(server, size=1) as pool:
        pids = set()
        for _ in range(3):
            with psycopg.connect(pool.dsn(server), prepare_threshold=None) as conn:
                row = conn.execute("select pg_backend_pid()").fetchone()
                pids.add(row and row[0])

        assert len(pids) == 1
        assert any(row["pool_mode"] == "transaction" for row in pool.show("pools"))


def test_a_browser_shows_a_page_of_this_machine(tmp_path):
    (tmp_path / "index.html").write_text(
        "<!doctype html><title>t</title><link rel=icon href=data:,><h1></h1>"
        "<script>document.querySelector('h1').textContent = 'made by script'</script>"
    )

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    try:
        with chromium() as page:
            page.get(f"http://127.0.0.1:{web.server_port}/")

            assert page.find_element(By.TAG_NAME, "h1").text == "made by script"
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


def test_a_missing_program_leaves_a_test_out_but_fails_it_in_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="make tools"):
        tools.program("no-such-program")

    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program"):
        tools.program("no-such-program")


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_the_installation_says_what_is_left_out_and_fails_in_ci(tmp_path, ci, status):
    # An ordinary user of a machine with none of the programs, not even apt-get.
    stub = tmp_path / "id"
    stub.write_text("#!/bin/sh\necho 1000\n")
    stub.chmod(0o755)
    script = _SCRIPT.read_text().replace("PATH=$PATH:/usr/sbin", f"PATH={tmp_path}")

    done = subprocess.run(
        ["/bin/bash", "-c", script],
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
    )

    assert done.returncode == status
    assert "pgbouncer" in done.stderr
    assert "chromium chromedriver" in done.stderr
    assert "apt-get install chromium chromium-driver" in done.stderr
