// Shared by the steps: a client, a target of health checks, and assertions.
import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import http from 'node:http';
import { isDeepStrictEqual } from 'node:util';
import { setTimeout as pause } from 'node:timers/promises';
import Consul from 'consul';

/** Limit in milliseconds for an event that is expected immediately, or after the next probe. */
export const EVENT_TIMEOUT = 5_000;

/** A wait that changes have to end early. */
export const LONG_WAIT = '20s';

/** HTTP service whose status code can be set. */
export class Target {
  status = 200;

  static async start() {
    const target = new Target();
    const server = http.createServer((_, response) => response.writeHead(target.status).end('target'));
    server.listen(0, '127.0.0.1');
    server.unref();
    await once(server, 'listening');
    target.port = server.address().port;
    target.url = `http://127.0.0.1:${target.port}/health`;
    return target;
  }
}

export async function eventually(what, query, wanted) {
  const deadline = performance.now() + EVENT_TIMEOUT;
  for (;;) {
    const value = await query();
    if (isDeepStrictEqual(value, wanted)) return;
    assert.ok(performance.now() < deadline, `${what}: still ${JSON.stringify(value)}, not ${JSON.stringify(wanted)}`);
    await pause(25);
  }
}

export class Fixture {
  constructor(server) {
    this.server = server;
    const [host, port] = server.http.split(':');
    this.consul = new Consul({ host, port: Number(port) });
  }

  async ids(service, query = {}) {
    const entries = await this.consul.health.service({ service, ...query });
    return entries.map((entry) => entry.Service.ID).sort();
  }

  passing(service) {
    return this.ids(service, { passing: true });
  }

  /** Returns the state of a check, or undefined. */
  async state(service, id) {
    const checks = await this.consul.health.checks(service);
    return checks.find((check) => check.CheckID === id)?.Status;
  }

  /** Returns the passing instances. With an index, it is a blocking query that waits for a higher one. */
  async query(service, index, wait) {
    const began = performance.now();
    // With this context the client returns the response with the index, as it does in its own watch().
    const ctx = Object.assign(new EventEmitter(), { includeResponse: true });
    const [response, entries] = await this.consul.health.service({ service, passing: true, ctx, ...(index && { index, wait }) });
    return {
      ids: entries.map((entry) => entry.Service.ID).sort(),
      index: BigInt(Consul.parseQueryMeta(response).LastIndex),
      took: performance.now() - began,
    };
  }

  /** Starts a blocking query, and returns once it is waiting. */
  async queryInBackground(service, index, wait) {
    const answer = this.query(service, index, wait);
    answer.catch(() => {}); // an error is reported where the answer is awaited
    const early = await Promise.race([answer, pause(200)]);
    assert.equal(early, undefined, 'answered immediately, without a change');
    return bounded(answer);
  }
}

// Wraps the promise, because an async function waits for a promise that it returns.
function bounded(answer) {
  return {
    within: async (limit) => {
      const late = pause(limit).then(() => assert.fail(`no answer within ${limit} ms`));
      late.catch(() => {});
      return Promise.race([answer, late]);
    },
  };
}

/** A watch() of the client, and the updates that it has received. */
export class WatchLog {
  #changes = [];
  #errors = [];

  constructor(consul, method, options) {
    this.watch = consul.watch({ method, options, backoffFactor: 10 });
    this.watch.on('change', (data) => this.#changes.push(data));
    this.watch.on('error', (error) => this.#errors.push(error));
  }

  get count() {
    return this.#changes.length;
  }

  async expect(what, view, wanted) {
    await eventually(what, () => (this.#changes.length ? view(this.#changes.at(-1)) : undefined), wanted);
    assert.deepEqual(this.#errors, []);
  }

  end() {
    this.watch.end();
  }
}
