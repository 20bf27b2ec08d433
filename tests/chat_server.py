"""A model behind an OpenAI-compatible endpoint on loopback, for judges and teachers. It keeps what
it was asked. (tests/test_endpoint.py has a server of its own, which fails in many ways.)"""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer(ThreadingHTTPServer):
    """Answers each request by `reply(messages, number of calls before)`: a text, (text,
    finish_reason) or a status. asked: the bodies of the requests."""

    daemon_threads = True

    def __init__(self, reply=None):
        self.reply, self.asked = reply, []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.005,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def prompts(self):
        """The last texts of the requests."""
        return [body["messages"][-1]["content"] for body in self.asked]

    def stop(self):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        found = self.server.reply(body["messages"], len(self.server.asked) - 1)
        status = found if isinstance(found, int) else 200
        text, finish = found if isinstance(found, tuple) else (str(found), "stop")
        reply = {"choices": [{"message": {"content": text}, "finish_reason": finish}]}
        content = json.dumps(reply).encode()
        with contextlib.suppress(OSError):  # the client was killed
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def judging(verdict):
    """Inside `with`, (url, asked) of a judge that knows no true answers. verdict(what the user
    said, reply) is its answer, and asked the list of the bodies that it was sent."""

    def reply(messages, before):
        said, _, reply = messages[1]["content"].partition("\nReply: ")
        return verdict(said.removeprefix("What the user said: "), reply)

    server = ChatServer(reply)
    try:
        yield server.url, server.asked
    finally:
        server.stop()
