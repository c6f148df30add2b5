// The official TypeScript SDK's client repairs a small project in a workspace.
//
//   repair.mjs MODE COMMAND [ARG…]    MODE: legacy (`initialize`), or auto (the newest revision that both speak)
//   repair.mjs MODE URL               with the token in PYRO_MCP_TOKEN
//
// The working directory holds `project`. Prints what was negotiated. The client itself checks every structured result
// against the tool's output schema.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const [mode, target, ...args] = process.argv.slice(2);
const transport = target.startsWith('http://')
  ? new StreamableHTTPClientTransport(new URL(target), {
      requestInit: { headers: { Authorization: `Bearer ${process.env.PYRO_MCP_TOKEN}` } },
    })
  : new StdioClientTransport({ command: target, args, env: process.env, stderr: 'inherit' });
const client = new Client({ name: 'repair', version: '1' }, { versionNegotiation: { mode } });
await client.connect(transport);

async function call(name, input, options) {
  const result = await client.callTool({ name, arguments: input }, { timeout: 120_000, ...options });
  assert.ok(!result.isError, `${name}: ${JSON.stringify(result.content)}`);
  assert.ok(result.structuredContent, `${name} has no structured content`);
  return result.structuredContent;
}

const tools = await client.listTools();
const names = tools.tools.map((tool) => tool.name);
assert.deepEqual(names, (await client.listTools()).tools.map((tool) => tool.name), 'another order');
assert.ok(names.includes('workspace_create'));

let told = 0;
const { workspace_id } = await call(
  'workspace_create',
  { environment: 'debian:12', seed_path: 'project', labels: { by: 'typescript' } },
  { onprogress: () => told++ },
);
assert.ok(told > 0, 'no progress was told');
try {
  const test = () => call('workspace_exec', { workspace_id, command: 'sh test.sh' });
  const broken = await test();
  assert.equal(broken.exit_code, 3, 'a failing command is a result');
  assert.match(broken.stdout, /2 and 3 make -1/);

  const { entries } = await call('workspace_file_list', { workspace_id, recursive: true });
  assert.deepEqual(entries.map((entry) => entry.path).filter((path) => path.endsWith('.sh')).sort(), [
    '/workspace/calc.sh',
    '/workspace/test.sh',
  ]);
  const { content } = await call('workspace_file_read', { workspace_id, path: 'calc.sh' });
  assert.equal(content, readFileSync('project/calc.sh', 'utf8'));

  const patch = '--- a/calc.sh\n+++ b/calc.sh\n@@ -1,3 +1,3 @@\n add() {\n-    echo $(($1 - $2))\n+    echo $(($1 + $2))\n }\n';
  await call('workspace_patch_apply', { workspace_id, patch });
  const repaired = await test();
  assert.equal(repaired.exit_code, 0, repaired.stderr);

  const diff = await call('workspace_diff', { workspace_id });
  assert.match(diff.patch, /^\+ {4}echo \$\(\(\$1 \+ \$2\)\)$/m);

  const output_path = 'repaired.sh';
  const exported = await call('workspace_export', { workspace_id, path: 'calc.sh', output_path });
  assert.equal(exported.output_path, `${process.cwd()}/${output_path}`);
  assert.match(readFileSync(output_path, 'utf8'), /\$1 \+ \$2/);

  // What the person did not allow is a result that says what would allow it.
  for (const [name, input] of [
    ['workspace_export', { workspace_id, path: 'calc.sh', output_path: '../out.sh' }],
    ['workspace_sync_push', { workspace_id, source_path: '/etc' }],
  ]) {
    const refused = await client.callTool({ name, arguments: input });
    assert.ok(refused.isError, `${name} was not refused`);
    assert.match(refused.content[0].text, /--host-root/);
  }
  assert.ok(!existsSync('../out.sh'));
  await assert.rejects(client.callTool({ name: 'no_such_tool', arguments: {} }));
} finally {
  await call('workspace_delete', { workspace_id });
}
console.log(JSON.stringify({ server: client.getServerVersion().name, protocol: client.getNegotiatedProtocolVersion() }));
await client.close();
