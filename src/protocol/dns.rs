//! The DNS door: `web.service.consul`, as programs ask that know no other way, in the names that Consul gave them.
//!
//! | file | holds |
//! |---|---|
//! | `zone` | what is answered for, and the names in it |
//! | `question` | what a name asks for (pure) |
//! | `offer` | who of a service is to be called, as records need it, until it changes |
//! | `node` | nodes: where they are, by name and by address |
//! | `reverse` | services by address |
//! | `record` | records as they are answered with |
//! | `answer` | the answer to a question, from the registry |
//! | `sheet` | an answer that is being written |
//! | `packet` | bytes to questions, answers to bytes that fit |
//! | `door` | the sockets |
//! | `connections` | how many connections there are, and of one address |
//!
//! An answer is made where its question is read, from what the registry shows at that moment: nothing is asked of anybody
//! else, and only a question for a reverse name may wait, until enough of a large registry has been read.
//!
//! What is not here: recursion, zone transfers, DNSSEC, caching for others.

mod answer;
mod answer_builder;
mod connections;
mod endpoints;
mod listener;
mod node;
mod packet;
mod question;
mod record;
mod reverse;
mod zone;

pub use answer::Authority;
pub use listener::DnsListener;
pub use zone::Zone;

/// The answer to a packet, with this many bytes of room if it offers none. `None`: it deserves none. For tests and fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) use listener::reply;
#[cfg(any(test, fuzzing))]
pub(crate) use packet::DnsTransport;
