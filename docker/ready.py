"""The health check of the image: exit status 0 while /readyz answers 200, else 1 with the reason.

Standard library only, and nothing of moontune: it runs every few seconds.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

SECONDS = 8.0
"""Less than the time-out of the HEALTHCHECK, so that the reason is told."""

MAX_REASON_BYTES = 2000


def reason() -> str:
    """Why the service is not ready; empty when it is."""
    url = f"http://127.0.0.1:{os.environ.get('MOONTUNE_PORT', '8000')}/readyz"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=SECONDS):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code}: {error.read(MAX_REASON_BYTES).decode(errors='replace')}"
    except OSError as error:
        return f"{url}: {error}"


if __name__ == "__main__":
    sys.exit(reason() or 0)
