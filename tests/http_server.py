"""A web server on this machine that serves bytes, and that can fail as real servers do."""

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator


class Server:
    """The files that are served, the failures to simulate, and the requests so far."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True  # whether requests for a part of a file are answered with that part
        self.tags = True  # whether answers have an ETag, which identifies the version of a file
        self.break_after: list[int] = []  # numbers of bytes after which the next connections break
        self.failures: list[int] = []  # status codes of the next answers
        self.requests: list[tuple[str, str | None]] = []  # path and Range
        self.port = 0

    def url(self, name: str) -> str:
        """The address of a file."""
        return f"http://127.0.0.1:{self.port}/{name}"


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Run a server until the block ends."""
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            state.requests.append((name, self.headers.get("Range")))
            if state.failures:
                self._answer(state.failures.pop(0), b"")
            elif name not in state.files:
                self._answer(404, b"")
            else:
                self._send(state.files[name])

        def _send(self, content: bytes) -> None:
            tag = f'"{hash(content)}"'
            headers = {"ETag": tag} if state.tags else {}
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if asked and state.ranges and self.headers.get("If-Range") == tag:
                start = int(asked[1])
                if start >= len(content):
                    self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                    return
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self._answer(206, content[start:], headers)
            else:
                self._answer(200, content, headers)

        def _answer(self, status: int, body: bytes, headers: dict | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if body and state.break_after:
                body = body[: state.break_after.pop(0)]
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
