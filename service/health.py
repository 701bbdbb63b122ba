"""The cold routes, on FastAPI: liveness, readiness, metrics, OpenAPI and its page."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from mimetypes import guess_type
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service import __version__, metrics
from service.errors import Problem
from service.instance import Instance
from service.openapi import HOT_PATHS, SCHEMAS

ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
"""Swagger UI's own files; served from here, so that the page works where no CDN is in reach."""

PATHS = ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs", *(f"/docs/{name}" for name in ASSETS))
"""Every path that goes to FastAPI; all of them answer GET and HEAD alone."""


def cold_app(instance: Callable[[], Instance]) -> FastAPI:
    """The FastAPI app for everything that is not on the path of a write."""
    app = FastAPI(
        title="BusyAPI",
        version=__version__,
        summary="An ingest API that acknowledges an event only once it is on disk.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )

    @app.get("/livez", tags=["operation"], summary="This process answers")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get(
        "/readyz",
        tags=["operation"],
        summary="May take traffic: has had a store session and is not draining",
        responses={503: {"description": "Starting or draining", "content": {"application/problem+json": {}}}},
    )
    async def readyz() -> dict[str, str]:
        if not instance().ready:
            detail = "This web instance is draining." if instance().draining else "There has been no store session yet."
            raise Problem(503, "not_ready", detail)
        return {"status": "ready"}

    @app.get("/metrics", include_in_schema=False)
    async def scrape() -> Response:
        instance().sample()
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return document(app)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        script, style, icon = (f"/docs/{name}" for name in ASSETS)
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="BusyAPI",
            swagger_js_url=script,
            swagger_css_url=style,
            swagger_favicon_url=icon,
        )

    @app.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        content = (resources.files("fastapi_offline") / "static" / name).read_bytes()
        return Response(content, media_type=guess_type(name)[0], headers={"cache-control": "max-age=86400"})

    return app


def document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's OpenAPI document with the hot routes, which it does not know, put in."""
    generated = app.openapi()
    return {
        **generated,
        "paths": {**HOT_PATHS, **generated["paths"]},
        "components": {"schemas": SCHEMAS},
    }
