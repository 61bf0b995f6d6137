//! What tests stand on: servers, connections, watches, deadlines.

mod beats;
mod clock;
mod diary;
mod house;
mod http;
mod memory;
mod metric;
mod peer;
mod process;
mod proxy;
mod random;
mod raw;
mod reader;
mod record;
mod script;
mod stall;
mod view;

pub use beats::Beats;
pub use clock::{Span, Wall, wall, within};
pub use diary::Diary;
pub use house::{Engine, House};
pub use http::get;
pub use memory::InMemory;
pub use metric::{metric, metric_becomes};
pub use peer::{Peer, address, instance, seconds};
pub use process::{Child, Ended, Serve, free_port, steady_port};
pub use proxy::{Flow, Proxy, Way};
pub use random::{Random, Seed};
pub use raw::{PREFACE, Raw};
pub use reader::Reader;
pub use record::{Filter, Heard, Record, Scope, What};
pub use script::message;
pub use stall::Stalls;
pub use view::{Key, View, key};
