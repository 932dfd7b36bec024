"""The live page, and the endpoints for metrics and health. docs/live-page.md describes them.

Needs uvicorn, Starlette and prometheus-client. Nothing here may delay tracking: a run hands over its newest frame and
continues; drawing and encoding happen in the server's threads, and only while somebody is watching.
"""

from __future__ import annotations

from importlib import import_module

from edge_tracker.app.extras import extra

with extra("server", "server: the live page needs a package that is missing"):
    for _module in ("uvicorn.protocols.http.h11_impl", "prometheus_client.exposition", "starlette.routing"):
        import_module(_module)
