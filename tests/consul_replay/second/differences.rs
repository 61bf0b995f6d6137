//! Where Callboard answers the second recording otherwise than Consul did, and why that is right.

use super::super::differences::{Difference, NOSNIFF};

const HASH: &str = "is a hash of Go's struct";
const HANGS_UP: &str = "is answered: the recorded build closes the connection without an answer";
const NO_ALIAS: &str = "is the one check of a sidecar: Consul makes an alias check of its service beside it";
const PROBED: &str = "tells of a probe that Consul had not made yet";
const NODES_ALONE: &str =
    "rises when a node changes: Consul's rises with some changes of services too, and wakes queries for nothing";
const NO_BRACKETS: &str =
    "is refused with a reason: Consul accepts a TCP target that it can never connect to, and only the output says why";
const TEXT_OF_NODE: &str = "is an addition of the recorded build: Consul's own answers have no metadata there";
const VIRTUAL: &str = "has a virtual address for a mesh, which is not here";
const DOTS: &str = "is a name with a dot, which the recorded build refuses and Callboard serves";
const NODE_FIRST: &str = "is that of the node, which was there before the service: each has a revision of its own";
const LOSES_CHECK: &str = "rises when the service loses its check, so that whoever waits for it hears of that";
const TAKEN: &str =
    "is that of the moment when the instance took the check: it decides which of two has it, also after a crash";
const AFTER_TAKEN: &str =
    "is that of the registration, at which the instance took the check: the check is no older than that here";
const NEW_NAME: &str = "is the service that has the check now, which has moved with its id";
const MOVED: &str = "is that of the registration under the new name, which is an instance of another service";
const BETWEEN: &str = "is a name between: RFC 8020 wants NOERROR, so that resolvers do not deny the names below it";
const TRUNCATED: &str = "says that records were left out, so that the client asks again over TCP";
const MORE_FIT: &str = "is what fits into 512 bytes: the recorded agent gives at most three answers there";

const SHORT_TTL: &str = "is refused with a reason: no program can report in time to a TTL below a second";
const LAST_OUTPUT: &str = "keeps the last output, as Consul's does without a restart";

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
    Difference { exchanges: &[123], at: "body", why: "tells the rules of a Go parser" },
    Difference { exchanges: &[23, 139, 141, 146, 169, 172], at: "additional TXT", why: TEXT_OF_NODE },
    Difference { exchanges: &[180], at: "number of additional records", why: TEXT_OF_NODE },
    Difference { exchanges: &[156], at: "authority SOA", why: "is what RFC 2308 wants of an answer without data" },
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
