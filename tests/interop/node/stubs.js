// Stubs: proto-loader reads the contract when the program starts, as in most grpc-js programs.
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const here = path.dirname(fileURLToPath(import.meta.url));
const reflection = path.join(path.dirname(createRequire(import.meta.url).resolve('@grpc/reflection')), '../proto');

const definitions = loader.loadSync(
  [
    'callboard/v1/registry.proto',
    'callboard/v1/discovery.proto',
    'callboard/v1/admin.proto',
    'grpc/health/v1/health.proto',
    'grpc/reflection/v1/reflection.proto',
    'grpc/reflection/v1alpha/reflection.proto',
    'error.proto',
  ],
  {
    includeDirs: [path.join(here, '../../../proto'), reflection, here],
    keepCase: true,
    longs: BigInt,
    enums: String,
    defaults: true,
    oneofs: true,
  },
);
const packages = grpc.loadPackageDefinition(definitions);

export const { callboard, grpc: stock } = packages;
export const { status } = grpc;

const EVENT_TIMEOUT_MS = 5_000;

/** Returns a client with a connection of its own. By default, grpc-js shares one among all clients of an address. */
export function connect(Service, address) {
  return new Service(address, grpc.credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
}

/** Makes a unary call with a deadline. */
export function call(client, method, request) {
  return promisify(client[method].bind(client))(request, { deadline: Date.now() + EVENT_TIMEOUT_MS });
}

/** Returns the google.rpc details of a failed call, by type name. */
export function details(error) {
  const [encoded] = error.metadata.get('grpc-status-details-bin');
  const found = {};
  for (const any of encoded ? decode('google.rpc.Status', encoded).details : []) {
    const type = any.type_url.split('/').pop();
    if (definitions[type]) found[type] = decode(type, any.value);
  }
  return found;
}

function decode(type, bytes) {
  return definitions[type].deserialize(bytes);
}
