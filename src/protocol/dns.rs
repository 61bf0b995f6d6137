//! Authoritative DNS server for `web.service.consul` and the other names of Consul's DNS interface.
//!
//! | file | contents |
//! |---|---|
//! | `zone` | the zone, and the names in it |
//! | `question` | interpretation of names (pure) |
//! | `target` | address, node or host name that a record leads to |
//! | `node` | nodes, by name and by address |
//! | `endpoints` | routable instances of a service, cached until it changes |
//! | `reverse` | index of services by address |
//! | `record` | records |
//! | `answer` | answers |
//! | `answer_builder` | construction of answers |
//! | `authority` | answers to questions, from the registry |
//! | `packet` | wire format, and what fits into a packet |
//! | `server` | requests and responses over UDP and TCP |
//! | `listener` | sockets |
//! | `connections` | limits of TCP connections |
//!
//! A question is answered where it is read, from the current state of the registry, without waiting. Only a question for a reverse
//! name may be repeated, with other tasks in between, until the index of addresses is up to date.
//!
//! Not supported: recursion, zone transfers, DNSSEC.

mod answer;
mod answer_builder;
mod authority;
mod connections;
mod endpoints;
mod listener;
mod node;
mod packet;
mod question;
mod record;
mod reverse;
mod server;
mod target;
mod zone;

pub use authority::Authority;
pub use listener::DnsListener;
pub use zone::Zone;

#[cfg(any(test, fuzzing))]
pub(crate) use packet::DnsTransport;
#[cfg(any(test, fuzzing))]
pub(crate) use server::respond;
