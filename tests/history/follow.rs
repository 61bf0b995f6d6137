//! Readers that read steadily, slowly or with reconnects.

use std::{net::SocketAddr, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::HALF;
use crate::harness::{Filter, Random, Reader, Scope, TestClient};

/// Instruction for a reader.
#[derive(Debug)]
pub struct Plan {
    pub name: &'static str,
    pub scope: Scope,
    pub filter: Filter,
    pub habit: Habit,
    /// True for a reader that starts after three quarters of the writes.
    pub late: bool,
}

/// Way in which a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Reads all messages at once.
    Steady,
    /// One message, then a pause, with a small window, so that the reader falls behind.
    Slow,
    /// Reads a few messages, then opens a new stream with its token, often over a new connection.
    ComesBack,
}

/// Pause of a slow reader between messages.
const PAUSE: Duration = Duration::from_millis(60);
/// Flow-control window that one message fills.
const NARROW: u32 = 64;

impl Plan {
    /// Reads until the reader has the goal's revision.
    pub async fn open(self, server: SocketAddr, mut random: Random, mut goal: watch::Receiver<Option<u64>>) -> Reader {
        if self.late {
            sleep(HALF + HALF / 2).await;
        }
        let slow = self.habit == Habit::Slow;
        let client =
            TestClient::connect_with(
                server,
                |endpoint| {
                    if slow { endpoint.initial_stream_window_size(NARROW) } else { endpoint }
                },
            );
        let mut reader = Reader::open(&client.await, self.name, self.scope, self.filter).await;
        let mut patience = random.below(20);
        loop {
            let newest = *goal.borrow_and_update();
            if newest.is_some_and(|newest| reader.view.revision >= newest) {
                return reader;
            }
            tokio::select! {
                message = reader.message() => message.map(drop).unwrap(),
                Ok(()) = goal.changed() => continue,
            }
            match self.habit {
                Habit::Slow if newest.is_none() => sleep(PAUSE).await,
                Habit::Steady | Habit::Slow => {}
                Habit::ComesBack if patience > 0 => patience -= 1,
                Habit::ComesBack => {
                    patience = random.below(20);
                    if random.one_in(3) {
                        reader.move_to(&TestClient::connect(server).await);
                    }
                    reader.reopen().await.unwrap();
                }
            }
        }
    }
}
