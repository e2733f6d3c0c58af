"""The templates of pages, and what a page may load: its pictures and its script, all of which it holds itself."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def policy(script: str = "") -> str:
    """The Content-Security-Policy of a page: it loads nothing, and runs nothing but `script`, named by its digest."""
    parts = ["default-src 'none'", "img-src data:", "media-src data:", "style-src 'unsafe-inline'"]
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        parts.append(f"script-src 'sha256-{digest}'")
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals["policy"] = policy
