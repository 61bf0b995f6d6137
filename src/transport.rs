//! Connections: accepting them, serving them on the threads of workers, waking their streams, and closing them.
//!
//! ```text
//!   acceptor ──► the worker with the fewest open streams        writer ──► notifier of each worker that has a watcher
//!                 one thread, one current_thread runtime                     └─► the streams on its own thread
//! ```
//!
//! tokio's multi-thread scheduler runs a connection's task after nearly every task of its streams, which costs one system call per message. On a
//! `current_thread` runtime the streams run first, and the connection writes once for all of them.
//!
//! | file | holds |
//! |---|---|
//! | `listener`, `listener_config`, `protocol`, `acceptor`, `descriptors` | bound addresses, and the accept loop with its reserve of descriptors |
//! | `accepted_connection`, `worker`, `worker_state` | threads, and their load |
//! | `serve`, `preface`, `h2_io`, `request_service` | life of a connection, and the adapters around hyper |
//! | `connection` | state of one connection |
//! | `limits`, `unread_limits`, `unread_answers`, `limit_error` | limits on open connections, streams and unread answers |
//! | `fairness` | share of a thread that one connection may use: its budget, and the accounts of its use |
//! | `connection_io`, `paced_body`, `accounted_task` | the budget applied to what a connection reads, writes and runs |
//! | `closing`, `goaway` | closing with a reason |
//! | `wake`, `wake_flag` | waking the streams of a changed service |
//! | `tls` | certificates and handshakes |
//! | `fatal` | end of a task that must not end |

mod accepted_connection;
mod acceptor;
mod accounted_task;
mod closing;
mod connection;
mod connection_io;
mod descriptors;
mod fairness;
mod fatal;
mod goaway;
mod h2_io;
mod limit_error;
mod limits;
mod listener;
mod listener_config;
mod message_body;
mod paced_body;
mod preface;
mod protocol;
mod request_service;
mod serve;
pub mod tls;
mod unread_answers;
mod unread_limits;
mod wake;
mod wake_flag;
mod worker;
mod worker_state;

pub use acceptor::{Acceptor, WorkerDispatch, accept};
pub use connection::Connection;
pub use connection_io::ConnectionIo;
pub use descriptors::{max_connections_by_descriptors, raise_limit};
pub use fatal::{FatalListener, FatalReporter};
pub use limit_error::{LimitError, LimitLevel};
pub use limits::{ConnectionLimiter, ConnectionLimits, ConnectionPermit, PeerIdentity, PerAddress};
pub use listener::Listener;
pub use listener_config::ListenerConfig;
pub use message_body::{MESSAGE_PREFIX_BYTES, MessageBody, MessageSource, NextMessage, put_message_prefix};
pub use protocol::Protocol;
pub use request_service::{EndlessBody, user_agent};
pub use serve::serve;
pub use unread_limits::AnswerSize;
pub use wake::{ChangedServices, Interest, Notifier, WakeRegistration};
pub use worker::{WorkerConfig, Workers};
pub use worker_state::WorkerState;
