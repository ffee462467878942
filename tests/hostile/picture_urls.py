"""300 texts in the place of a picture that name something to fetch or to open; bar S7."""

from __future__ import annotations

from itertools import product

NUM_URLS = 300

_SCHEMES = (
    "http://", "https://", "HTTP://", "hTTps://", " http://", "\thttps://", "\nhttp://", "http:/", "http:",
    "//", "ftp://", "ftps://", "sftp://", "gopher://", "file://", "FILE://", "file:", "unix:", "http+unix://",
    "ws://", "wss://", "s3://", "gs://", "hf://", "ssh://", "git://", "ldap://", "dict://", "tftp://", "smb://",
    "jar:http://", "view-source:http://", "blob:http://", "javascript:", "about:", "cid:", "mailto:", "data://",
)  # fmt: skip
_HOSTS = (
    "192.0.2.1/a.png", "127.0.0.1:8000/healthz", "[::1]:8000/", "[::ffff:192.0.2.1]/", "2130706433/", "0x7f000001/",
    "169.254.169.254/latest/meta-data/", "localhost/", "example.com/a.png", "user:word@example.com/",
    "example.com@192.0.2.1/", "/etc/passwd", "xn--e1afmkfd.example/", "%65xample.com/", "a.png#data:;base64,QQ==",
)  # fmt: skip
_OTHERS = (
    "", " ", "/etc/passwd", "../../etc/passwd", "C:\\a.png", "\\\\192.0.2.1\\a.png", "a.png", "~/a.png", "/dev/stdin",
    "/proc/self/environ", "-", "@/etc/passwd", "<http://192.0.2.1/a.png>", "url(http://192.0.2.1)", "|id",
    "data:", "data:image/png", "data:image/png,QQ==", "data:image/png;base64", "data:;base32,AA", "data:;base64x,QQ==",
    "data;base64,QQ==", "date:image/png;base64,QQ==", "x-data:image/png;base64,QQ==", "data :image/png;base64,QQ==",
    "data:http://192.0.2.1/a.png", "data:image/png;base64;url=http://192.0.2.1,QQ==", "iVBORw0KGgo=", "/9j/4AAQ",
    "https://example.com/data:image/png;base64,QQ==", "http://192.0.2.1/,;base64,QQ==", "slice:0:0:1",
    "data:" + "a" * 2000 + ";base64,QQ==", "ｈｔｔｐ://192.0.2.1/", "ht\ttp://192.0.2.1/", "http\n://192.0.2.1/",
)  # fmt: skip


def picture_urls() -> list[str]:
    """All of them, none twice; each is to be refused as no base64 data URL."""
    fetched = [scheme + host for host, scheme in product(_HOSTS, _SCHEMES)]
    return list(dict.fromkeys([*_OTHERS, *fetched]))[:NUM_URLS]
