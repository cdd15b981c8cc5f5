"""LiteLLM's question about each request: whose key is this? It reads the hashes that `course keys` wrote.

LiteLLM loads this file by its name from beside litellm.yaml; the course's package need not be installed there.

    COURSE_KEYS          the path of keys.json
    COURSE_PER_MINUTE    requests of one student in a minute (where it is missing: 30)
    COURSE_AT_ONCE       requests of one student at the same time (where it is missing: 4)
"""

import hashlib
import json
import os
from pathlib import Path

from fastapi import HTTPException, Request
from litellm.proxy._types import LitellmUserRoles, UserAPIKeyAuth

ROUTES = {"/chat/completions", "/completions", "/models"}
UNKNOWN = "The key is missing or wrong: send it as `Authorization: Bearer KEY`."
per_minute = int(os.environ.get("COURSE_PER_MINUTE", "30"))
at_once = int(os.environ.get("COURSE_AT_ONCE", "4"))


def read_students() -> dict[str, str]:
    """Names by the hashes of their keys. Read anew each time: a key that was taken back ends at once."""
    path = Path(os.environ["COURSE_KEYS"])
    hashes = json.loads(path.read_text("utf-8"))
    return {hash: name for name, hash in hashes.items()}


async def student(request: Request, api_key: str | None) -> UserAPIKeyAuth:
    """The student whose key was sent, with the limits of each student; 401 for a key that is nobody's."""
    sent = api_key or ""
    key = sent.removeprefix("Bearer ")
    hash = hashlib.sha256(key.encode()).hexdigest()
    name = read_students().get(hash)
    if name is None:
        raise HTTPException(401, UNKNOWN)
    route = request.url.path.removeprefix("/v1")
    if route not in ROUTES:
        raise HTTPException(404, "This path is not served here.")
    return UserAPIKeyAuth(
        api_key=hash,
        key_alias=name,
        user_id=name,
        user_role=LitellmUserRoles.INTERNAL_USER_VIEW_ONLY,
        rpm_limit=per_minute,
        max_parallel_requests=at_once,
    )
