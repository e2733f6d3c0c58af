"""A real MLflow server on loopback that can be cut off, run as `tracking_server.py DATABASE ARTIFACTS`.

It prints its port. GET /answer/N lets it answer N more requests, and refuse all others with status 503; GET /seen tells
how many requests came.
"""

import os
import sys


def main(database: str, artifacts: str) -> None:
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{database}"
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = artifacts
    from mlflow.server import app
    from werkzeug.serving import make_server

    state = {"left": sys.maxsize, "seen": 0}

    def limited(environ, start_response):
        path = environ["PATH_INFO"]
        if path.startswith("/answer/"):
            state["left"] = int(path.removeprefix("/answer/"))
        elif path != "/seen":
            state["seen"] += 1
            state["left"] -= 1
            if state["left"] >= 0:
                return app(environ, start_response)
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"away"]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(state["seen"]).encode()]

    server = make_server("127.0.0.1", 0, limited, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
