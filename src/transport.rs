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
mod closing;
mod connection;
mod connection_io;
mod cpu_share;
mod descriptors;
mod fatal;
mod goaway;
mod h2_io;
mod limit_error;
mod limits;
mod listener;
mod listener_config;
mod preface;
mod request_service;
mod serve;
mod stall;
pub mod tls;
mod unread_answers;
mod wake;
mod wake_flag;
mod worker;
mod worker_state;

pub use acceptor::{WorkerDispatch, accept};
pub use connection::Connection;
pub use connection_io::ConnectionIo;
pub use descriptors::{raise_limit, room_for_connections};
pub use fatal::{FatalListener, FatalReporter};
pub use limit_error::{LimitError, LimitLevel};
pub use limits::{ConnectionLimiter, ConnectionLimits, ConnectionPermit, PeerIdentity, PerAddress};
pub use listener::Listener;
pub use listener_config::{ListenerConfig, Protocol};
pub use request_service::EndlessBody;
pub use serve::serve;
pub use unread_answers::AnswerSize;
pub use wake::{Interest, Notifier, WakeRegistration};
pub use worker::{WorkerConfig, Workers};
pub use worker_state::WorkerState;
