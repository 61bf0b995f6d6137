// Requests for the steps.
import { randomUUID } from 'node:crypto';

/** Returns a registration with the default TTL, which is 15 s. */
export function instance(service, id, tags = [], more = {}) {
  return {
    service,
    id,
    boot_id: randomUUID(),
    addresses: [{ host: '127.0.0.1', port: 9001, name: 'grpc' }],
    tags,
    locality: { region: 'eu', zone: 'eu-1a' },
    ...more,
  };
}

/** Returns an update of these fields; its mask names no others. */
export function update(service, id, fields, lease = Buffer.alloc(0)) {
  return { service, id, lease_id: lease, update_mask: { paths: Object.keys(fields) }, ...fields };
}
