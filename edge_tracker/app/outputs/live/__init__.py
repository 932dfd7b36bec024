"""The live page and the endpoints beside it. They are described in docs/live-page.md.

Needs uvicorn, starlette and prometheus-client. Nothing here may hold up the tracking: a run hands over its newest frame
and goes on, and drawing and encoding happen in the server's threads, only while somebody looks.
"""

from __future__ import annotations

from importlib import import_module

from edge_tracker.app.extras import extra

with extra("server", "server: the live page needs a package that is missing"):
    for _module in ("uvicorn.protocols.http.h11_impl", "prometheus_client.exposition", "starlette.routing"):
        import_module(_module)
