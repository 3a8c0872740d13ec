#!/bin/sh
# huggingface_hub 2.4.0, seen on 2026-11-30: snapshot_download(dry_run=True) answers with DryRunError where the hub says
# that a model is gated or does not exist. Its first line asks to check the internet connection or the token.
#
# Expected: GatedRepoError and RepositoryNotFoundError, as without dry_run. A program that catches these, to say which
# licence to accept or that a name is wrong, does not see them. The answer is the __cause__ of the error only, which
# threedgen therefore looks at. The hub is a server on this machine that answers in the way of the real one.
#
# Output seen:
#     gated, dry_run=False: GatedRepoError, caused by HTTPStatusError
#     gated, dry_run=True: DryRunError, caused by GatedRepoError
#     wrong, dry_run=False: RepositoryNotFoundError, caused by HTTPStatusError
#     wrong, dry_run=True: DryRunError, caused by RepositoryNotFoundError
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet huggingface_hub==2.4.0
HF_HOME="$folder/cache" "$folder/venv/bin/python" - <<'SCRIPT'
import http.server
import os
import threading


class Hub(http.server.BaseHTTPRequestHandler):
    answers = {"gated": (403, "GatedRepo"), "wrong": (404, "RepoNotFound")}

    def do_GET(self):
        name = next((name for name in self.answers if f"/{name}" in self.path), "wrong")
        status, code = self.answers[name]
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
from huggingface_hub import errors, snapshot_download

found = []
for name, expected in (("gated", errors.GatedRepoError), ("wrong", errors.RepositoryNotFoundError)):
    for dry_run in (False, True):
        try:
            snapshot_download(f"someone/{name}", dry_run=dry_run)
        except Exception as error:
            found.append((dry_run, isinstance(error, expected), isinstance(error.__cause__, expected)))
            print(f"{name}, dry_run={dry_run}: {type(error).__name__}, caused by {type(error.__cause__).__name__}")
server.shutdown()
as_described = len(found) == 4 and all(not own and cause if dry else own for dry, own, cause in found)
raise SystemExit(0 if as_described else 1)
SCRIPT
