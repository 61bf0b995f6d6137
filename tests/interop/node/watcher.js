// A watch on a connection of its own. Checks that revisions increase, and that each comes with a resume token.
import assert from 'node:assert/strict';
import { MessageQueue, EVENT_TIMEOUT_MS } from './message-queue.js';
import { callboard, connect } from './stubs.js';

export class Watcher {
  revision = 0n;
  token = Buffer.alloc(0);
  #client;
  #stream;
  #messages;

  constructor(address, request) {
    this.#client = connect(callboard.v1.DiscoveryService, address);
    this.#stream = this.#client.watch(request);
    this.#messages = new MessageQueue(this.#stream);
  }

  /** Reads a snapshot up to Synced, and returns its instances by `service/id`. */
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

  /** Reads a Reset and returns its reason. */
  async reset() {
    const { message } = await this.#next();
    expect('reset', message);
    return message.reset.reason;
  }

  /** Reads the changes of a resumed stream up to Synced. */
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

  /** Returns the next change, which must be an update of this instance. */
  async updated(id) {
    const change = this.#singleChange((await this.#next()).message);
    assert.equal(change.updated?.id, id, `expected an update of ${id}, got ${show(change)}`);
    return change.updated;
  }

  /** Reads the next change, which must be the removal of this instance, and returns its time of arrival. */
  async removed(id, reason) {
    const { message, at } = await this.#next();
    const change = this.#singleChange(message);
    assert.equal(change.removed?.id, id, `expected the removal of ${id}, got ${show(change)}`);
    assert.equal(change.removed.reason, reason, `reason of the removal of ${id}`);
    return at;
  }

  /** Reads the next message, which must be this notice. */
  async notice(notice) {
    const { message } = await this.#next();
    expect('notice', message);
    assert.equal(message.notice, notice);
  }

  /** Waits for the error that ends the stream. */
  async error() {
    const { error, message } = await this.#messages.take();
    assert(error, `expected an error, got ${show(message)}`);
    return error;
  }

  /** Cancels the watch, and checks that it has no unread messages except bookmarks. */
  close() {
    this.#stream.cancel();
    this.#client.close();
    const unread = this.#messages.pending().filter((message) => !message.bookmark);
    assert.equal(unread.length, 0, `unexpected messages: ${show(unread)}`);
  }

  /** Returns the next message that is not a bookmark. */
  async #next() {
    const until = performance.now() + EVENT_TIMEOUT_MS;
    for (;;) {
      const item = await this.#messages.message(Math.max(0, until - performance.now()));
      if (!item.message.bookmark) return item;
      this.#advanceTo(item.message.bookmark);
    }
  }

  #singleChange(message) {
    expect('changes', message);
    this.#advance(message.changes);
    assert.equal(message.changes.changes.length, 1, `number of changes in ${show(message)}`);
    return message.changes.changes[0];
  }

  #advance(changes) {
    // With revision 0, more messages of the same step follow.
    if (changes.revision !== 0n) this.#advanceTo(changes);
  }

  #advanceTo(to) {
    assert(to.revision > this.revision, `revision went from ${this.revision} to ${to.revision}`);
    this.#setPosition(to);
  }

  #synced(synced) {
    // A resumed stream may be synced at the revision of its last change.
    assert(synced.revision >= this.revision, `synced at ${synced.revision}, after ${this.revision}`);
    this.#setPosition(synced);
  }

  #setPosition({ revision, resume_token: token }) {
    assert(token.length > 0, `revision ${revision} has no resume token`);
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
