// A watch on a connection of its own. Checks on every message that revisions rise and that tokens are there.
import assert from 'node:assert/strict';
import { Mailbox, PATIENCE_MS } from './mailbox.js';
import { callboard, connect } from './stubs.js';

export class Watcher {
  revision = 0n;
  token = Buffer.alloc(0);
  #client;
  #stream;
  #mailbox;

  constructor(address, request) {
    this.#client = connect(callboard.v1.DiscoveryService, address);
    this.#stream = this.#client.watch(request);
    this.#mailbox = new Mailbox(this.#stream);
  }

  /** Reads a snapshot up to its Synced: instances by `service/id`. */
  async snapshot() {
    const instances = new Map();
    for (;;) {
      const { message } = await this.#next();
      if (message.synced) {
        this.#synced(message.synced);
        return instances;
      }
      expect('snapshot', message);
      for (const instance of message.snapshot.instances) {
        const name = `${instance.service}/${instance.id}`;
        assert(!instances.has(name), `${name} is in the snapshot twice`);
        instances.set(name, instance);
      }
    }
  }

  /** Reads the Reset that a token brought, and returns its reason. */
  async reset() {
    const { message } = await this.#next();
    expect('reset', message);
    return message.reset.reason;
  }

  /** Reads what a resumed stream has to tell up to its Synced. */
  async missed() {
    const changes = [];
    for (;;) {
      const { message } = await this.#next();
      if (message.synced) {
        this.#synced(message.synced);
        return changes;
      }
      expect('changes', message);
      this.#advance(message.changes);
      changes.push(...message.changes.changes);
    }
  }

  /** The next change, which must be an update of this instance. */
  async updated(id) {
    const change = this.#only((await this.#next()).message);
    assert.equal(change.updated?.id, id, `expected an update of ${id}, got ${show(change)}`);
    return change.updated;
  }

  /** The next change, which must be the removal of this instance. Returns when it came. */
  async removed(id, reason) {
    const { message, at } = await this.#next();
    const change = this.#only(message);
    assert.equal(change.removed?.id, id, `expected the removal of ${id}, got ${show(change)}`);
    assert.equal(change.removed.reason, reason, `reason of the removal of ${id}`);
    return at;
  }

  /** The next message, which must be this notice. */
  async notice(notice) {
    const { message } = await this.#next();
    expect('notice', message);
    assert.equal(message.notice, notice);
  }

  /** Waits for the error that ends the stream. */
  async refusal() {
    const { error, message } = await this.#mailbox.take();
    assert(error, `expected an error, got ${show(message)}`);
    return error;
  }

  /** Cancels the watch. Nothing may have come that no step has asked for. */
  close() {
    this.#stream.cancel();
    this.#client.close();
    const unasked = this.#mailbox.pending().filter((message) => !message.bookmark);
    assert.equal(unasked.length, 0, `nobody expected this: ${show(unasked)}`);
  }

  /** The next message that is not a bookmark. */
  async #next() {
    const until = performance.now() + PATIENCE_MS;
    for (;;) {
      const item = await this.#mailbox.message(Math.max(0, until - performance.now()));
      if (!item.message.bookmark) return item;
      this.#rise(item.message.bookmark);
    }
  }

  #only(message) {
    expect('changes', message);
    this.#advance(message.changes);
    assert.equal(message.changes.changes.length, 1, `number of changes in ${show(message)}`);
    return message.changes.changes[0];
  }

  #advance(changes) {
    // 0: more messages of the same step follow.
    if (changes.revision !== 0n) this.#rise(changes);
  }

  #rise(to) {
    assert(to.revision > this.revision, `revision went from ${this.revision} to ${to.revision}`);
    this.#hold(to);
  }

  #synced(synced) {
    // A resumed stream may be synced at the revision of its last change.
    assert(synced.revision >= this.revision, `synced at ${synced.revision}, after ${this.revision}`);
    this.#hold(synced);
  }

  #hold({ revision, resume_token: token }) {
    assert(token.length > 0, `revision ${revision} came without a token`);
    this.revision = revision;
    this.token = token;
  }
}

function expect(kind, message) {
  assert.equal(message.message, kind, `expected ${kind}, got ${show(message)}`);
}

function show(value) {
  return JSON.stringify(value, (_, part) => (typeof part === 'bigint' ? `${part}` : part));
}
