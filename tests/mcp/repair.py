"""The official Python SDK's client repairs a small project in a workspace.

repair.py MODE COMMAND [ARG...]    MODE: legacy (`initialize`), or auto (the newest revision that both speak)
repair.py MODE URL                 with the token in PYRO_MCP_TOKEN

The working directory holds `project`. Prints what was negotiated. The client itself checks every structured result
against the tool's output schema.
"""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import httpx2
from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

PATCH = """\
--- a/calc.sh
+++ b/calc.sh
@@ -1,3 +1,3 @@
 add() {
-    echo $(($1 - $2))
+    echo $(($1 + $2))
 }
"""


@contextlib.asynccontextmanager
async def connected(mode: str, target: str, args: list[str]):
    async with contextlib.AsyncExitStack() as stack:
        if target.startswith("http://"):
            headers = {"Authorization": f"Bearer {os.environ['PYRO_MCP_TOKEN']}"}
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=120))
            server = streamable_http_client(target, http_client=http)
        else:
            server = StdioServerParameters(command=target, args=args, env=dict(os.environ))
        yield await stack.enter_async_context(Client(server, mode=mode, read_timeout_seconds=120))


async def main(mode: str, target: str, *args: str) -> None:
    async with connected(mode, target, list(args)) as client:

        async def call(name: str, **arguments):
            result = await client.call_tool(name, arguments)
            assert not result.is_error, f"{name}: {result.content}"
            assert result.structured_content is not None, f"{name} has no structured content"
            return result.structured_content

        names = [tool.name for tool in (await client.list_tools()).tools]
        assert "snapshot_create" in names, names
        created = await call("workspace_create", environment="debian:12", seed_path="project", labels={"by": "python"})
        workspace = created["workspace_id"]
        try:
            broken = await call("workspace_exec", workspace_id=workspace, command="sh test.sh")
            assert broken["exit_code"] == 3, broken
            await call("snapshot_create", workspace_id=workspace, snapshot_name="broken")

            listed = await call("workspace_file_list", workspace_id=workspace)
            paths = {entry["path"] for entry in listed["entries"]}
            assert {"/workspace/calc.sh", "/workspace/test.sh"} <= paths, paths
            read = await call("workspace_file_read", workspace_id=workspace, path="calc.sh")
            assert read["content"] == Path("project/calc.sh").read_text()

            await call("workspace_patch_apply", workspace_id=workspace, patch=PATCH)
            repaired = await call("workspace_exec", workspace_id=workspace, command="sh test.sh")
            assert repaired["exit_code"] == 0, repaired
            diff = await call("workspace_diff", workspace_id=workspace)
            assert "+    echo $(($1 + $2))" in diff["patch"], diff

            await call("workspace_export", workspace_id=workspace, path="/workspace", output_path="repaired")
            assert "$1 + $2" in Path("repaired/calc.sh").read_text()

            # Back to what was broken, by a reset of the whole sandbox.
            await call("workspace_reset", workspace_id=workspace, snapshot="broken")
            again = await call("workspace_exec", workspace_id=workspace, command="sh test.sh")
            assert again["exit_code"] == 3, again

            # What the person did not allow is a result that says what would allow it.
            refused = await client.call_tool("workspace_sync_push", {"workspace_id": workspace, "source_path": "/etc"})
            assert refused.is_error and "--host-root" in refused.content[0].text, refused
            # Calls at once: each gets its own answer.
            commands = [call("workspace_exec", workspace_id=workspace, command=f"echo {n}") for n in range(4)]
            said = [result["stdout"].strip() for result in await asyncio.gather(*commands)]
            assert said == ["0", "1", "2", "3"], said
        finally:
            await call("workspace_delete", workspace_id=workspace)
        print(json.dumps({"server": client.server_info.name, "protocol": client.protocol_version}))


asyncio.run(main(*sys.argv[1:]))
