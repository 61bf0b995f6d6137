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
mod bell;
mod busy;
mod connection;
mod descriptors;
mod door;
mod farewell;
mod gate;
mod goaway;
mod greeting;
mod hub;
mod line;
mod listener;
mod place;
mod port;
mod progress;
mod serve;
mod share;
mod socket;
pub mod tls;
mod unread;
mod worker;

pub use acceptor::{Dealer, accept};
pub use alarm::{Alarm, Alarmed};
pub use busy::{Busy, Level};
pub use connection::Connection;
pub use descriptors::{raise_limit, room_for_connections};
pub use door::Endless;
pub use gate::{Gate, Identity, PerAddress, Rules, Ticket};
pub use hub::{Hubs, Interest, Seat};
pub use line::Line;
pub use listener::Listener;
pub use place::Place;
pub use port::{Port, Protocol};
pub use serve::serve;
pub use unread::AnswerSize;
pub use worker::{Worker, Workers};
