// A grpc-js program that knows nothing of Callboard. It takes commands on stdin, one a line, and prints JSON lines. The README
// of the suites has the commands.

import { createRequire } from "node:module";
import process from "node:process";
import readline from "node:readline";

import grpc from "@grpc/grpc-js";
import * as xds from "@grpc/grpc-js-xds";

const MAX_ERROR_TEXT = 200;
const MAX_ERRORS = 20;

const emit = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const bytes = (message) => message;

/** Settings of the calls of a command. */
class Settings {
    method = "/callboard.interop.Echo/Call";
    deadline = 5000; // milliseconds
    metadata = new grpc.Metadata();

    constructor(options) {
        for (const option of options) {
            const [, name, value] = option.match(/^(.*?)=(.*)$/);
            if (name === "method") {
                this.method = value;
            } else if (name === "deadline") {
                this.deadline = Number(value);
            } else if (name === "header") {
                const [, header, content] = value.match(/^(.*?):(.*)$/);
                this.metadata.add(header, content);
            } else {
                throw new Error(`invalid option "${option}"`);
            }
        }
    }
}

/** Calls by backend, and failed calls by error, with their times. */
class Tally {
    #backends = {};
    #errors = {};
    #times = {}; // milliseconds, by backend

    /** Counts a call that has ended, or a stream with its first response. */
    add(began, error, response) {
        const id = error ? "failed" : response.toString();
        (this.#times[id] ??= []).push(Number((performance.now() - began).toFixed(3)));
        if (!error) {
            this.#backends[id] = (this.#backends[id] ?? 0) + 1;
            return;
        }
        const text = `${grpc.status[error.code]}: ${error.details}`.slice(0, MAX_ERROR_TEXT);
        if (text in this.#errors || Object.keys(this.#errors).length < MAX_ERRORS) {
            this.#errors[text] = (this.#errors[text] ?? 0) + 1;
        }
    }

    print(event, more) {
        emit({ event, backends: this.#backends, errors: this.#errors, ...more });
    }

    printWithTimes(event) {
        this.print(event, { ms: this.#times });
    }
}

/** Makes a call, counts it, and resolves at its end. */
function call(client, settings, tally) {
    return new Promise((resolve) => {
        const began = performance.now();
        const { method, metadata } = settings;
        const options = { deadline: Date.now() + settings.deadline };
        client.makeUnaryRequest(method, bytes, bytes, Buffer.alloc(0), metadata, options, (error, response) => {
            tally.add(began, error, response);
            resolve();
        });
    });
}

async function callMany(client, calls, parallel, settings) {
    const tally = new Tally();
    let left = calls;
    const caller = async () => {
        while (left > 0) {
            left -= 1;
            await call(client, settings, tally);
        }
    };
    await Promise.all(Array.from({ length: parallel }, caller));
    tally.printWithTimes("called");
}

/** Opens a stream, counts it, and resolves with it at its first response. */
function openStream(client, settings, tally) {
    return new Promise((resolve) => {
        const began = performance.now();
        const stream = client.makeServerStreamRequest(settings.method, bytes, bytes, Buffer.alloc(0), settings.metadata);
        let answered = false;
        const answer = (error, response) => {
            if (!answered) {
                answered = true;
                tally.add(began, error, response);
                resolve(stream);
            }
        };
        stream.on("data", (response) => answer(null, response));
        stream.on("error", (error) => answer(error));
    });
}

/** Opens streams one after the other, each after the first response of the one before. */
async function park(client, count, settings) {
    const tally = new Tally();
    const streams = [];
    for (let opened = 0; opened < count; opened += 1) {
        streams.push(await openStream(client, settings, tally));
    }
    tally.printWithTimes("parked");
    return streams;
}

/** A background load of a fixed rate. */
class Load {
    tally = new Tally();
    #open = new Set();
    #timer;

    constructor(client, rate, settings) {
        const began = performance.now();
        let started = 0;
        const startDueCalls = () => {
            for (const due = ((performance.now() - began) * rate) / 1000; started < due; started += 1) {
                const open = call(client, settings, this.tally).then(() => this.#open.delete(open));
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
    let streams = [];
    for await (const line of readline.createInterface({ input: process.stdin })) {
        const [command, ...words] = line.trim().split(/\s+/);
        const options = words.findIndex((word) => word.includes("="));
        const numbers = (options < 0 ? words : words.slice(0, options)).map(Number);
        const settings = new Settings(options < 0 ? [] : words.slice(options));
        if (command === "call" && numbers.length === 2) {
            await callMany(client, ...numbers, settings);
        } else if (command === "park" && numbers.length === 1) {
            streams.push(...(await park(client, ...numbers, settings)));
        } else if (command === "unpark") {
            streams.forEach((stream) => stream.cancel());
            streams = [];
            new Tally().print("unparked");
        } else if (command === "start" && numbers.length === 1 && !load) {
            load = new Load(client, ...numbers, settings);
        } else if (command === "stats" && load) {
            load.tally.print("stats");
        } else if (command === "stop" && load) {
            await load.stop();
            load.tally.printWithTimes("stopped");
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
