// What the steps share: requests.
import { randomUUID } from 'node:crypto';

/** Lives 15 s without a heartbeat. */
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

/** Sets these fields, and only these. */
export function update(service, id, fields, lease = Buffer.alloc(0)) {
  return { service, id, lease_id: lease, update_mask: { paths: Object.keys(fields) }, ...fields };
}
