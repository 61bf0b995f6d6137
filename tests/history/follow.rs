//! Readers with habits.

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
    /// It starts when much has already happened.
    pub late: bool,
}

/// Way in which a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Whatever there is, at once.
    Steady,
    /// A message, then a pause, with hardly any window: so the registry goes on without it.
    Slow,
    /// A few messages, then a new stream with its token, often over a new connection.
    ComesBack,
}

/// Pause of a slow reader between messages.
const PAUSE: Duration = Duration::from_millis(60);
/// A window that one message fills.
const NARROW: u32 = 64;

impl Plan {
    /// Reads until it stands at the goal, once there is one.
    pub async fn open(self, server: SocketAddr, mut random: Random, mut goal: watch::Receiver<Option<u64>>) -> Reader {
        if self.late {
            sleep(HALF + HALF / 2).await;
        }
        let slow = self.habit == Habit::Slow;
        let peer =
            TestClient::connect_with(
                server,
                |endpoint| {
                    if slow { endpoint.initial_stream_window_size(NARROW) } else { endpoint }
                },
            );
        let mut reader = Reader::open(&peer.await, self.name, self.scope, self.filter).await;
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
