"""What a server says of the copy that it makes before an upgrade."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from server.config import ServerConfig
from server.serving import _upgrade
from tests.migrations.recorded import SCHEMAS, lay_out


@pytest.mark.database("sqlite")
def test_a_server_logs_where_the_copy_is(config: ServerConfig) -> None:
    lay_out(SCHEMAS[0], config)
    with capture_logs() as logs:
        _upgrade(config)
        _upgrade(config)  # which needs none
    (copy,) = config.data_dir.glob("moontune.db.*.backup")
    assert logs == [
        {
            "event": "database_copied_aside",
            "log_level": "info",
            "path": str(copy),
            "num_bytes": copy.stat().st_size,
        }
    ]
