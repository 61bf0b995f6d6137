//! Connections: who accepts them, which thread serves them, who wakes their streams, how they end.
//!
//! ```text
//!   acceptor ──► the worker with the fewest open streams        writer ──► hub of each worker that watches
//!                 one thread, one current_thread runtime                     └─► the streams on its own thread
//! ```
//!
//! tokio's multi-thread scheduler runs a connection's task after nearly every stream's task, which costs a system call per
//! message; on a `current_thread` runtime the streams run first and the connection writes once for all of them.

mod acceptor;
mod alarm;
mod connection;
mod hub;
mod socket;
mod worker;

pub use acceptor::{Listener, accept};
pub use alarm::{Alarm, Alarmed};
pub use connection::{Connection, Limits, serve};
pub use hub::{Hubs, Interest, Seat};
pub use worker::{Worker, Workers};
