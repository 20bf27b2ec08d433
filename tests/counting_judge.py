"""A judge behind an endpoint on loopback. It keeps what it was asked."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def judging(verdict):
    """Inside `with`, (url, asked) of an endpoint. verdict(what the user said, reply) is its answer,
    and asked the list of the bodies that it was sent."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            said, _, reply = body["messages"][1]["content"].partition("\nReply: ")
            said = said.partition("\nTrue answer: ")[0].partition(": ")[2]
            answer = verdict(said, reply)
            message = {"message": {"content": answer}, "finish_reason": "stop"}
            content = json.dumps({"choices": [message]}).encode()
            with contextlib.suppress(OSError):  # the client was killed
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, args=(0.005,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/v1", asked
        http.shutdown()
