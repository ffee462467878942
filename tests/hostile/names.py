"""500 names and ids that broke other servers: paths, escapes, quotes, markup, formulas; S8."""

from __future__ import annotations

NUM_NAMES = 500

_PATHS = (
    "..", "../", "../../etc/passwd", "/etc/passwd", "..\\..\\windows\\win.ini", "C:\\boot.ini",
    "%2e%2e%2f", "%252e%252e%252f", "..%2f..%2fetc%2fpasswd", "..;/", "....//....//etc/passwd",
    "/proc/self/environ", "file:///etc/passwd", "~/.ssh/id_rsa", "~root", "./.", ".", "/", "//",
    "\\\\server\\share", "a/../b", "a/b", "a//b", ".git/config", "lock", "moontune.db",
    "moontune.db-wal", "finetunes", "spool", "logs/worker.log", "/dev/null", "/dev/random",
    "a/../../moontune.db", "..%c0%af..%c0%afetc/passwd", "%00", "a%00.png", "%0d%0aX: y",
)  # fmt: skip
_DEVICES = ("CON", "PRN", "AUX", "NUL", "COM1", "LPT1", "con.txt", "a.", "a ", "$Recycle.Bin")
_CONTROLS = (
    "\0", "a\0b", "\n", "a\nb", "a\r\nb", "\r\nX-Injected: yes", "\n{\"event\": \"forged\"}",
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b[2J", "\x07", "\b\b\b", "\t", "\x7f", "\x85",
    "\u2028", "\u2029", "a\vb\fc", "\x9b31m", "\ufeff", "\x1b[1A\x1b[2K",
)  # fmt: skip
_UNICODE = (
    "ﬁnetune", "pаypal", "．．／", "‥/", "é", "e\u0301", "İ", "ß", "ſ", "K", "\u202egnp.exe", "\u200b", "a\u200db",
    "💥", "👩‍👩‍👧‍👦", "\U0010ffff", "\ue000", "𝟙𝟚", "１２", "٣", "Ⅷ", "ﷺ", "a" + "\u0300" * 300, "中文", "العربية",
    "\ufffd", "\ufffe", "Ω", "µ", "ª", "\xad", "\u180e", "\u3164",
)  # fmt: skip
_MARKUP = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><svg onload=alert(1)>",
    "javascript:alert(1)", "{{7*7}}", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{{config}}", "&lt;b&gt;",
    "<!--", "]]>", "<![CDATA[x]]>", "'-alert(1)-'", "</title><script>", "<a href=//x>", "%3Cb%3E",
    "<?php echo 1?>", "data:text/html,<script>alert(1)</script>", "[x](javascript:alert(1))",
)  # fmt: skip
_STATEMENTS = (
    "' OR '1'='1", "'; DROP TABLE finetunes; --", "1; SELECT pg_sleep(5)", "\" OR \"\"=\"", "a' --",
    "%' UNION SELECT * FROM finetunes --", "1 OR 1=1", "0x41", "admin'/*", "\\'; --", "%", "_", "*",
    "a%", "?", ":name", "$1", "$(id)", "`id`", "; id", "| id", "&& id", "> /tmp/x", "$HOME", "%PATH%",
    "!!python/object/apply:os.system [id]", "{\"$gt\": \"\"}", "*)(uid=*", "() { :;}; id",
)  # fmt: skip
_FORMULAS = (
    "=1+1", "+1+1", "-1+1", "@SUM(A1)", "=cmd|' /C calc'!A0", "=HYPERLINK(\"http://x\")", "\t=1",
    ",", ";", "\"", "a,b", "a\",\"b", "a\"\nb", "''", "\"\"", "=1\r\n=2", "|", "\\",
)  # fmt: skip
_LABELS = (
    "a\"} 1\nforged 2", "a=\"b\"", "{x=\"y\"}", "\\n", "\\\"", "\\", "le", "__name__", "# HELP x", "NaN", "+Inf",
    "a{}", "route", "status",
)  # fmt: skip
_NUMBERS = (
    "0", "-1", "1", "00", "1e3", "1.0", "1e999", "-0", "9" * 15, "9" * 16, "9" * 25, "9" * 5000,
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551616",
    "0x1", "0b1", "1_000", " 1", "1 ", "+1", "Infinity", "true", "null", "undefined", "None", "[]", "{}",
)  # fmt: skip
_IDS = (
    "0" * 26, "7" + "Z" * 25, "8" + "Z" * 25, "Z" * 26, "0" * 25, "0" * 27, "I" * 26, "O" * 26, "L" * 26,
    "U" * 26, "-" * 26, "0" * 26 + "@1", "x@y", "@", "a@b@c", "moondream/" + "0" * 26 + "@1",
    "00000000-0000-0000-0000-000000000000", "default", "base", "others", "none", "*",
)  # fmt: skip
_LONG = (
    "a" * 129,
    "a" * 1024,
    "../" * 500,
    "é" * 900,
    "%2e" * 900,
    "\n" * 500,
    "a b" * 900,
    "<" * 3000,
)
_TEXTS = (
    "",
    " ",
    "a b",
    "a+b",
    "a&b=c",
    "a#b",
    "a?b=c",
    "a;b",
    "a=b",
    "slice:" + "0" * 32 + ":0:9",
)


def names() -> list[str]:
    """All of them, none twice: the ones above, and those within other names."""
    single = [
        *(*_PATHS, *_DEVICES, *_CONTROLS, *_UNICODE, *_MARKUP, *_STATEMENTS, *_FORMULAS, *_LABELS),
        *(*_NUMBERS, *_IDS, *_LONG, *_TEXTS),
    ]
    hidden = [
        before + name + after
        for before, after in (("cars-", ""), ("cars", "\n"), ("", ".safetensors"), ("0", "@1"))
        for name in single
        if name and len(name) < 100
    ]
    return list(dict.fromkeys([*single, *hidden]))[:NUM_NAMES]
