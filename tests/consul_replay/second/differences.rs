//! Differences between Callboard and Consul in the second recording, with reasons.

use super::super::differences::{Difference, NOSNIFF};

const HASH: &str = "is a hash of another encoding";
const HANGS_UP: &str = "is an answer: the recorded build closes the connection without one";
const NO_ALIAS: &str = "is the only check of a sidecar: Consul adds an alias check of its service";
const PROBED: &str = "is the output of a probe: Consul had not probed yet";
const NODES_ALONE: &str =
    "rises when a node changes: Consul's also rises with some changes of services, and wakes queries without need";
const NO_BRACKETS: &str = "is an error with a reason: Consul accepts a TCP target to which it can never connect, and explains it only in the output";
const TEXT_OF_NODE: &str = "is an addition of the recorded build: other builds of Consul have no metadata there";
const VIRTUAL: &str = "has a virtual address of the service mesh, which Callboard does not have";
const DOTS: &str = "belongs to a name with a dot, which the recorded build rejects and Callboard accepts";
const NODE_FIRST: &str =
    "is the index of the node, which is older than that of the service: every write has its own revision";
const LOSES_CHECK: &str = "rises when the service loses its check, so that blocking queries are answered";
const TAKEN: &str = "is the revision at which the instance took the check: it decides which of two instances has it, also after a crash";
const AFTER_TAKEN: &str = "is the revision of the registration, with which the instance took the check";
const NEW_NAME: &str = "is the service that has the check after the move of its id";
const MOVED: &str = "is the revision of the registration under the new name, which is a new instance there";
const BETWEEN: &str =
    "is NOERROR for an empty non-terminal, as RFC 8020 demands, so that resolvers do not deny the names below it";
const TRUNCATED: &str = "is set since records were left out, so that the client asks again over TCP";
const MORE_FIT: &str = "is as many as fit into 512 bytes: the recorded agent gives at most three answers";

const SHORT_TTL: &str = "is an error with a reason: no program can report in time for a TTL below a second";
const LAST_OUTPUT: &str = "is the last output, as in Consul without a restart";

pub const DIFFERENCES: &[Difference] = &[
    Difference { exchanges: &[], at: "header X-Content-Type-Options", why: NOSNIFF },
    Difference { exchanges: &[129, 130, 131], at: "*", why: SHORT_TTL },
    Difference { exchanges: &[185], at: "body[0].Output", why: LAST_OUTPUT },
    Difference { exchanges: &[2], at: "body.Services.s1.*Index", why: NODE_FIRST },
    Difference { exchanges: &[2], at: "header X-Consul-Index", why: NODE_FIRST },
    Difference { exchanges: &[28, 34], at: "header X-Consul-Index", why: LOSES_CHECK },
    Difference { exchanges: &[29, 32], at: "body*.ModifyIndex", why: TAKEN },
    Difference { exchanges: &[29], at: "body[0].Service.CreateIndex", why: AFTER_TAKEN },
    Difference { exchanges: &[29], at: "header X-Consul-Index", why: AFTER_TAKEN },
    Difference { exchanges: &[32], at: "header X-Consul-Index", why: TAKEN },
    Difference { exchanges: &[45], at: "body[0].Checks*.ServiceName", why: NEW_NAME },
    Difference { exchanges: &[45], at: "body[0].Service.*Index", why: MOVED },
    Difference { exchanges: &[45], at: "header X-Consul-Index", why: MOVED },
    Difference { exchanges: &[51, 54, 70, 75], at: "header X-Consul-Contenthash", why: HASH },
    Difference { exchanges: &[51, 54, 70, 75], at: "body.ContentHash", why: HASH },
    Difference { exchanges: &[96], at: "*", why: NO_BRACKETS },
    Difference { exchanges: &[98], at: "body.service:v6", why: NO_BRACKETS },
    Difference { exchanges: &[59, 63, 64], at: "body[0].Node.*Index", why: NODE_FIRST },
    Difference { exchanges: &[71], at: "body[0].Service.TaggedAddresses", why: VIRTUAL },
    Difference { exchanges: &[72, 76], at: "body[0].ServiceTaggedAddresses", why: VIRTUAL },
    Difference { exchanges: &[123], at: "body", why: "names the rules of Consul's parser" },
    Difference { exchanges: &[23, 139, 141, 146, 169, 172], at: "additional TXT", why: TEXT_OF_NODE },
    Difference { exchanges: &[180], at: "number of additional records", why: TEXT_OF_NODE },
    Difference { exchanges: &[156], at: "authority SOA", why: "is required by RFC 2308 in an answer without data" },
    Difference { exchanges: &[161], at: "status", why: DOTS },
    Difference { exchanges: &[161], at: "body", why: DOTS },
    Difference { exchanges: &[161], at: "header Content-Type", why: DOTS },
    Difference { exchanges: &[162], at: "*", why: DOTS },
    Difference { exchanges: &[159, 160, 163, 164, 165], at: "rcode", why: BETWEEN },
    Difference { exchanges: &[176, 177, 178], at: "tc", why: TRUNCATED },
    Difference { exchanges: &[176, 177], at: "number of answers", why: MORE_FIT },
    Difference { exchanges: &[176, 177], at: "number of additional records", why: MORE_FIT },
    Difference { exchanges: &[73], at: "status", why: HANGS_UP },
    Difference { exchanges: &[73], at: "body", why: HANGS_UP },
    Difference { exchanges: &[102, 104, 105, 106, 107, 116, 118], at: "body[0].Service.*Index", why: NODE_FIRST },
    Difference { exchanges: &[113, 125, 126], at: "body[0].Node.*Index", why: NODE_FIRST },
    Difference { exchanges: &[111], at: "body[1].CheckID", why: NO_ALIAS },
    Difference { exchanges: &[111], at: "body[1].Output", why: PROBED },
    Difference { exchanges: &[111], at: "body[2].ServiceName", why: NEW_NAME },
    Difference { exchanges: &[121], at: "header X-Consul-Index", why: NODES_ALONE },
];
