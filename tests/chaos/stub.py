"""What the API starts in place of a worker: it has a zygote fork one, and ends the way that ends.

    python -I -S -E stub.py ZYGOTE_SOCKET RECORD FD KIND argument...

The fork has what a child has of its parent: our output, environment, working directory, mask and
limits, and the descriptor FD unless it is "-". Started hundreds of times, so it imports next to
nothing. SIGTERM goes to the fork; when we are killed, the zygote kills the fork.
"""

import _socket
import json
import os
import resource
import signal
import sys


def main() -> None:
    path, record, fd, *argv = sys.argv[1:]
    zygote = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    zygote.connect(path)
    wish = {
        "argv": argv,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": os.umask(0o077),  # ours has no use any more
        "limits": {
            n: resource.getrlimit(n) for n in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE)
        },
        "guardian": os.getppid(),
        "record": record,
    }
    numbers = [1, 2] if fd == "-" else [1, 2, int(fd)]
    descriptors = b"".join(n.to_bytes(4, sys.byteorder) for n in numbers)
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    zygote.sendmsg([json.dumps(wish).encode()], rights)
    for number in numbers[2:]:
        os.close(number)  # only the fork may hold the API's socket open
    pid = json.loads(zygote.recv(1 << 12))["pid"]
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    status = json.loads(zygote.recv(1 << 12))["status"]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


main()
