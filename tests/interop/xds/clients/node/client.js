// A grpc-js program that knows nothing of Callboard. It takes commands on stdin, one a line, and prints JSON lines. The README
// of the suites has the commands.

import { createRequire } from "node:module";
import process from "node:process";
import readline from "node:readline";

import grpc from "@grpc/grpc-js";
import * as xds from "@grpc/grpc-js-xds";

const METHOD = "/callboard.interop.Echo/Call";
const CALL_TIMEOUT_MS = 5000;
const MAX_ERROR_TEXT = 200;
const MAX_ERRORS = 20;

const emit = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const bytes = (message) => message;

/** Calls by backend, and failed calls by error. */
class Tally {
    #backends = {};
    #errors = {};

    /** Counts a call that has ended. */
    add(error, response) {
        if (!error) {
            const id = response.toString();
            this.#backends[id] = (this.#backends[id] ?? 0) + 1;
            return;
        }
        const text = `${grpc.status[error.code]}: ${error.details}`.slice(0, MAX_ERROR_TEXT);
        if (text in this.#errors || Object.keys(this.#errors).length < MAX_ERRORS) {
            this.#errors[text] = (this.#errors[text] ?? 0) + 1;
        }
    }

    print(event) {
        emit({ event, backends: this.#backends, errors: this.#errors });
    }
}

/** Makes a call, counts it, and resolves at its end. */
function call(client, tally) {
    return new Promise((resolve) => {
        const options = { deadline: Date.now() + CALL_TIMEOUT_MS };
        client.makeUnaryRequest(METHOD, bytes, bytes, Buffer.alloc(0), options, (error, response) => {
            tally.add(error, response);
            resolve();
        });
    });
}

async function callMany(client, calls, parallel) {
    const tally = new Tally();
    let left = calls;
    const caller = async () => {
        while (left > 0) {
            left -= 1;
            await call(client, tally);
        }
    };
    await Promise.all(Array.from({ length: parallel }, caller));
    tally.print("called");
}

/** A background load of a fixed rate. */
class Load {
    tally = new Tally();
    #open = new Set();
    #timer;

    constructor(client, rate) {
        const began = performance.now();
        let started = 0;
        const startDueCalls = () => {
            for (const due = ((performance.now() - began) * rate) / 1000; started < due; started += 1) {
                const open = call(client, this.tally).then(() => this.#open.delete(open));
                this.#open.add(open);
            }
        };
        this.#timer = setInterval(startDueCalls, 1000 / rate);
    }

    async stop() {
        clearInterval(this.#timer);
        await Promise.all(this.#open);
    }
}

/** Runs the commands of stdin until `quit` or its end; returns the exit code. */
async function run(client) {
    let load = null;
    for await (const line of readline.createInterface({ input: process.stdin })) {
        const [command, ...numbers] = line.trim().split(/\s+/);
        const values = numbers.map(Number);
        if (command === "call" && values.length === 2) {
            await callMany(client, ...values);
        } else if (command === "start" && values.length === 1 && !load) {
            load = new Load(client, ...values);
        } else if (command === "stats" && load) {
            load.tally.print("stats");
        } else if (command === "stop" && load) {
            await load.stop();
            load.tally.print("stopped");
            load = null;
        } else if (command === "quit") {
            return 0;
        } else {
            console.error(`invalid command "${line}"`);
            return 2;
        }
    }
    return 0;
}

const version = (name) => createRequire(import.meta.url)(`${name}/package.json`).version;

xds.register();
const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
emit({ event: "ready", client: `grpc-js ${version("@grpc/grpc-js")}, grpc-js-xds ${version("@grpc/grpc-js-xds")}` });
process.exit(await run(client));
