// Queue of the messages of a stream, for a step that waits for them with a deadline.
import assert from 'node:assert/strict';

export const EVENT_TIMEOUT_MS = 5_000;

export class MessageQueue {
  #items = [];
  #waiting = null;

  constructor(stream) {
    stream.on('data', (message) => this.#put({ at: performance.now(), message }));
    stream.on('error', (error) => this.#put({ at: performance.now(), error }));
    stream.on('end', () => this.#put({ at: performance.now() }));
  }

  /** Returns the next item: a message, or the end of the stream with the error that ended it. */
  async take(limit = EVENT_TIMEOUT_MS) {
    if (this.#items.length === 0) {
      let timer;
      await new Promise((resolve, reject) => {
        this.#waiting = resolve;
        timer = setTimeout(() => reject(new Error(`no message within ${limit} ms`)), limit);
      }).finally(() => {
        this.#waiting = null;
        clearTimeout(timer);
      });
    }
    return this.#items.shift();
  }

  /** Returns the next item, which must be a message. */
  async message(limit = EVENT_TIMEOUT_MS) {
    const item = await this.take(limit);
    assert(item.message, `the stream ended: ${item.error}`);
    return item;
  }

  /** Returns the messages that have not been taken. */
  pending() {
    return this.#items.flatMap((item) => (item.message ? [item.message] : []));
  }

  #put(item) {
    this.#items.push(item);
    this.#waiting?.();
  }
}
