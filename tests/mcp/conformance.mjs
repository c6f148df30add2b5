// The official conformance suite against a server that wants a token.
//
//   conformance.mjs SUITE URL [ARG…]    SUITE: the suite's program; the token in PYRO_MCP_TOKEN
//
// The suite cannot send a token, so it talks to a proxy in here that adds it and changes nothing else. Exits as the suite.

import { spawn } from 'node:child_process';
import { createServer, request } from 'node:http';

const [suite, url, ...args] = process.argv.slice(2);
const { hostname, port, pathname } = new URL(url);
const authorization = `Bearer ${process.env.PYRO_MCP_TOKEN}`;

const proxy = createServer((from, to) => {
  const headers = { ...from.headers, authorization };
  const onward = request({ hostname, port, path: from.url, method: from.method, headers }, (answer) => {
    to.writeHead(answer.statusCode, answer.headers);
    to.flushHeaders();
    answer.pipe(to);
  });
  onward.on('error', (error) => to.destroy(error));
  to.on('close', () => onward.destroy());
  from.pipe(onward);
});
proxy.listen(0, '127.0.0.1', () => {
  const here = `http://127.0.0.1:${proxy.address().port}${pathname}`;
  const child = spawn(process.execPath, [suite, 'server', '--url', here, ...args], { stdio: 'inherit' });
  child.on('exit', (code, signal) => process.exit(signal ? 1 : code));
});
