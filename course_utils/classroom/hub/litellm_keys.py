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

ROUTES = ["/chat/completions", "/v1/chat/completions", "/completions", "/v1/completions", "/models", "/v1/models"]


def students() -> dict[str, str]:
    """Names by the hashes of their keys. Read anew each time: a key that was taken back ends at once."""
    hashes = json.loads(Path(os.environ["COURSE_KEYS"]).read_text("utf-8"))
    return {hash: name for name, hash in hashes.items()}


async def student(request: Request, api_key: str | None) -> UserAPIKeyAuth:
    """The student whose key was sent, with the limits of each student; 401 for a key that is nobody's."""
    key = (api_key or "").removeprefix("Bearer ")
    hash = hashlib.sha256(key.encode()).hexdigest()
    name = students().get(hash)
    if name is None:
        raise HTTPException(401, "The key is missing or wrong: send it as `Authorization: Bearer KEY`.")
    if request.url.path not in ROUTES:
        raise HTTPException(404, "This path is not served here.")
    return UserAPIKeyAuth(
        api_key=hash,
        key_alias=name,
        user_id=name,
        user_role=LitellmUserRoles.INTERNAL_USER_VIEW_ONLY,
        rpm_limit=int(os.environ.get("COURSE_PER_MINUTE", "30")),
        max_parallel_requests=int(os.environ.get("COURSE_AT_ONCE", "4")),
    )
