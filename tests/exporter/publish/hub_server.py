"""A server that speaks as much of the hub's API as huggingface_hub calls for one repository, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HubServer:
    """`files` is what the main branch holds; `uploads` are the sizes of the objects that were received.

    `cut_uploads` and `cut_downloads` are how many of the next large transfers end in their middle; the
    next one is refused then, because the client tries again.
    """

    def __init__(self) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        self._server = server
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.reset()

    def reset(self) -> None:
        """As it was at the start."""
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.exists = self.private = False
        self.commits = 0
        self.uploads: list[int] = []
        self.fetched: list[str] = []
        self.failing_uploads = self.cut_uploads = self.cut_downloads = 0
        self.etags: dict[str, str] = {}
        self.hashes: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.status: int | None = None

    @property
    def sha(self) -> str:
        content = [(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(self.files.items())]
        return hashlib.sha1(json.dumps([self.commits, content]).encode()).hexdigest()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def give(self, content: Any, status: int = 200, **headers: str) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        def missing(self) -> None:
            self.give({"error": "not found"}, 404, X_Error_Code="RepoNotFound")

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if hub.status is not None:
                return self.give({"error": "refused"}, hub.status)
            if path == "/api/whoami-v2":
                return self.give({"name": "org", "type": "user"})
            if not hub.exists or "/org/model" not in path:
                return self.missing()
            if re.fullmatch(r"/api/models/org/model(/revision/.+)?", path):
                files = [{"rfilename": n, "size": hub.sizes.get(n, len(d))} for n, d in hub.files.items()]
                return self.give({"id": "org/model", "sha": hub.sha, "siblings": files})
            if "/tree/" in path:
                return self.give(
                    [
                        {
                            "type": "file",
                            "path": n,
                            "size": len(d),
                            "oid": self.oid(n),
                            "lfs": {"oid": hub.hashes[n], "size": len(d), "pointerSize": 1}
                            if n in hub.hashes
                            else None,
                        }
                        for n, d in hub.files.items()
                    ]
                )
            name = path.rpartition("/")[2]
            if name not in hub.files:
                return self.give({"error": "none"}, 404, X_Error_Code="EntryNotFound")
            data = hub.files[name]
            if self.command == "GET":
                hub.fetched.append(name)
            etag = hub.etags.get(name, hashlib.sha1(data).hexdigest())
            if self.command == "GET" and name == "model.onnx.data" and hub.cut_downloads:
                hub.cut_downloads -= 1
                hub.status = 400
                self.give(data[: len(data) // 2], Content_Length=str(len(data)))
                return self.cut()
            return self.give(data, ETag=f'"{etag}"', X_Repo_Commit=hub.sha)

        def cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def do_PUT(self) -> None:
            if hub.cut_uploads:
                hub.cut_uploads -= 1
                hub.failing_uploads = 1  # the client tries again
                self.rfile.read(16)
                return self.cut()
            data = self.body()
            if hub.failing_uploads:
                hub.failing_uploads -= 1
                return self.give({"error": "broken"}, 400)
            hub.uploads.append(len(data))
            hub.objects[hashlib.sha256(data).hexdigest()] = data
            return self.give(b"")

        def do_POST(self) -> None:
            path, data = self.path.partition("?")[0], self.body()
            if hub.status is not None:
                return self.give({"error": "refused"}, hub.status)
            if path == "/api/repos/create":
                asked = json.loads(data)
                hub.exists, hub.private = True, asked.get("visibility") == "private" or bool(asked.get("private"))
                return self.give({"url": f"{hub.endpoint}/org/model"})
            if path == "/api/validate-yaml":
                return self.give({"errors": [], "warnings": []})
            if "/preupload/" in path:
                files = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].startswith("model.") else "regular",
                        "shouldIgnore": False,
                        "oid": self.oid(f["path"]),
                    }
                    for f in json.loads(data)["files"]
                ]
                return self.give({"files": files})
            if path.endswith("/objects/batch"):
                found = []
                for each in json.loads(data)["objects"]:
                    entry: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
                    if each["oid"] not in hub.objects:
                        entry["actions"] = {"upload": {"href": f"{hub.endpoint}/upload/{each['oid']}"}}
                    found.append(entry)
                return self.give({"transfer": "basic", "objects": found})
            if "/commit/" in path:
                for line in data.splitlines():
                    item = json.loads(line)
                    value = item["value"]
                    if item["key"] == "file":
                        hub.files[value["path"]] = base64.b64decode(value["content"])
                    elif item["key"] == "lfsFile":
                        hub.files[value["path"]] = hub.objects[value["oid"]]
                    elif item["key"] == "deletedFile":
                        del hub.files[value["path"]]
                hub.commits += 1
                return self.give({"commitUrl": f"{hub.endpoint}/org/model/commit/{hub.sha}", "commitOid": hub.sha})
            return self.missing()

        def oid(self, name: str) -> str | None:
            data = hub.files.get(name)
            if data is None:
                return None
            if name.startswith("model."):
                return hashlib.sha256(data).hexdigest()
            return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    return Handler
