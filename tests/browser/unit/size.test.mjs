import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';

const assets = new URL('../../../crates/api/assets/', import.meta.url);

test('what applications load is under 4 kB compressed', async () => {
  const script = await readFile(new URL('valetkey.js', assets));
  assert.ok(gzipSync(script, { level: 9 }).length < 4096);
});

test('the module can be imported where there is no window', async () => {
  const { stdout } = await import('node:child_process').then(({ spawnSync }) => spawnSync(process.execPath, [
    '--input-type=module', '-e',
    `import * as valetkey from ${JSON.stringify(new URL('valetkey.js', assets).href)}; console.log(Object.keys(valetkey).join())`,
  ], { encoding: 'utf8' }));
  assert.equal(stdout.trim(), 'connect,relay,resume');
});
