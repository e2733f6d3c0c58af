"""What every page must keep to: it loads and runs nothing but its content, and can be read without its pictures."""

import base64
import hashlib
import re
from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "hr", "input", "link", "source", "path", "rect", "line", "circle"}
_LOADING = {"src", "srcset", "href", "action", "formaction", "data", "poster"}


class _Reader(HTMLParser):
    """Collects the flaws of a page while it is parsed."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.flaws, self.open, self.scripts = [], [], []
        self.policy, self.language, self.has_viewport = None, None, False

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self._check_attributes(tag, values)
        if tag == "html":
            self.language = values.get("lang")
        elif tag == "meta":
            self.has_viewport |= values.get("name") == "viewport"
            if values.get("http-equiv") == "Content-Security-Policy":
                self.policy = values["content"]
        elif tag == "img" and not values.get("alt", "").strip():
            self.flaws.append("a picture without words")
        elif tag == "table" and not any("wide" in classes for _, classes in self.open):
            self.flaws.append("a table that does not scroll")
        elif tag in ("link", "iframe", "object", "embed", "base"):
            self.flaws.append(f"<{tag}>")
        if tag == "figure":
            self.flaws.append("a figure without a caption")  # taken back at its caption
        elif tag == "figcaption" and "a figure without a caption" in self.flaws:
            self.flaws.remove("a figure without a caption")
        if tag not in _VOID:
            self.open.append((tag, values.get("class", "").split()))

    def _check_attributes(self, tag, values):
        for name, value in values.items():
            if name.startswith("on"):
                self.flaws.append(f"a script in {name}")
            if name in _LOADING and re.match(r"\s*(?:https?:|ftp:|javascript:|file:|//|/)", value, re.IGNORECASE):
                self.flaws.append(f"<{tag} {name}={value[:40]!r}>")
            if name == "style":
                self._check_style(value)

    def _check_style(self, text):
        if re.search(r"url\((?!['\"]?data:)|@import", text):
            self.flaws.append("a style that loads")

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tag = self.open[-1][0] if self.open else ""
        if tag == "script":
            self.scripts.append(data)
        elif tag == "style":
            self._check_style(data)


def flaws(html):
    """What is wrong with a page, in words; empty for a good one."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    reasons = reader.flaws
    parts = [part.split() for part in (reader.policy or "").split(";") if part.strip()]
    policy = {name: sources for name, *sources in parts}
    if policy.get("default-src") != ["'none'"]:
        reasons.append("a policy that lets things be loaded")
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in reader.scripts]
    if policy.get("script-src", []) != [f"'sha256-{digest}'" for digest in digests]:
        reasons.append("scripts that differ from those that the policy names")
    if not reader.has_viewport:
        reasons.append("no viewport")
    if not reader.language:
        reasons.append("no language")
    return reasons
