"""The site of the documents, built by `make site`: the order of the pages, and little else."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]

project = "moontune"
html_title = "moontune"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**.md",
    "docker/README.md",
]
include_patterns += ["benchmarks/results/chaos.md"]
exclude_patterns = [".*", "**/node_modules", "dist", "build"]
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_static_path = ["site"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_permalinks_icon = "#"
myst_heading_anchors = 4  # as GitHub makes them
pygments_style = "tango"

NAVIGATION = {
    "Begin": ["docs/getting-started", "docs/moving", "docs/troubleshooting"],
    "Recipes": [
        "docs/recipes/README",
        "docs/recipes/query-rl",
        "docs/recipes/detect-rl",
        "docs/recipes/sft-then-rl",
        "docs/recipes/evaluate",
        "docs/recipes/resume",
        "docs/recipes/export",
    ],
    "Run it": [
        "docs/cuda-box",
        "docker/README",
        "docs/memory",
        "docs/proxies",
        "docs/operations",
        "docs/accounts",
        "docs/security",
        "docs/reliability",
    ],
    "Look up": [
        "docs/cli",
        "docs/configuration",
        "docs/errors",
        "docs/compatibility",
        "docs/adapters",
        "CHANGELOG",
    ],
    "How it works": [
        "docs/architecture",
        "docs/algorithms",
        "docs/learning",
        "docs/numerics",
        "docs/performance",
        "benchmarks/results/chaos",
        "docs/licences",
        "docs/releasing",
        "CONTRIBUTING",
    ],
    "More": [],  # what no other has
    "Decisions": sorted(f"docs/decisions/{p.stem}" for p in ROOT.glob("docs/decisions/*.md")),
}

_PLACED = {page for pages in NAVIGATION.values() for page in pages}
_ALL = (f"docs/{path.stem}" for path in ROOT.glob("docs/*.md"))
NAVIGATION["More"] = sorted(page for page in _ALL if page not in _PLACED)


def add_navigation(_app: object, name: str, source: list[str]) -> None:
    """The front page is the README; what only a site needs is added to it here."""
    if name == root_doc:
        for caption, pages in NAVIGATION.items():
            if not pages:
                continue
            lines = ["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]
            source[0] += "\n" + "\n".join(lines) + "\n"


def setup(app) -> None:
    """What Sphinx calls."""
    app.connect("source-read", add_navigation)
