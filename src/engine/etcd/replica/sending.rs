//! Requests to etcd: the batches, and what others or readers wait for.

use std::time::Duration;

use tokio::time::sleep;
use tokio_stream::StreamExt;

use super::{AwaitedReplies, EtcdReplica, NextBatchReply, RESEND_DELAY};
use crate::{
    etcd::{EtcdError, EtcdErrorKind, EtcdResponse, EtcdTransaction, EtcdTransactionResult},
    registry::SessionEpoch,
};

impl EtcdReplica {
    /// Fills the free lanes, answers what needs no lane, and sends what others or readers wait for.
    pub(super) fn send_requests(&mut self, awaited: &mut AwaitedReplies) {
        if !self.is_session_lost {
            for (lane, transaction) in self.committer.fill(&self.stored, self.clock.now()) {
                awaited.batches.insert(lane, self.send(lane, transaction, Duration::ZERO));
            }
            awaited.release = awaited.release.take().or_else(|| self.ask_for_release());
        }
        awaited.confirmation = awaited.confirmation.take().or_else(|| self.confirm_deregistrations());
        awaited.newest = awaited.newest.take().or_else(|| self.read_newest());
        if self.is_session_lost || self.committer.is_stalled(self.clock.since_start()) {
            self.committer.answer_unchanged(&self.stored, self.clock.now());
        }
    }

    /// Sends a transaction after a delay.
    fn send(&self, lane: usize, transaction: EtcdTransaction, delay: Duration) -> NextBatchReply {
        let (client, epoch) = (self.client.clone(), self.committer.session().epoch);
        let reply = async move {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            (lane, epoch, client.transact(&transaction).await)
        };
        Box::pin(tokio_stream::once(reply).then(|reply| reply))
    }

    /// Takes the reply to a batch. Returns the next attempt if the batch has to be sent again.
    pub(super) fn take_reply(
        &mut self,
        lane: usize,
        epoch: SessionEpoch,
        reply: Result<EtcdTransactionResult, EtcdError>,
    ) -> Option<NextBatchReply> {
        if epoch != self.committer.session().epoch {
            return None; // batches of an earlier session are decided again
        }
        match reply {
            Ok(result) if result.succeeded => {
                self.last_error = None;
                return None; // the watch has the outcome
            }
            Ok(result) => {
                if is_session_missing(&result) {
                    self.lose_session("etcd does not have it");
                    return None;
                }
                // An earlier attempt was executed: the watch shows it.
            }
            Err(error) => {
                tracing::debug!(%error, lane, "a batch was not confirmed");
                if error.kind() == EtcdErrorKind::TooLarge && self.committer.take_too_large(lane, &error) {
                    return None;
                }
                self.note_error(error);
            }
        }
        let transaction = self.committer.transaction(lane)?;
        Some(self.send(lane, transaction, RESEND_DELAY))
    }
}

fn is_session_missing(result: &EtcdTransactionResult) -> bool {
    matches!(result.responses.first(), Some(EtcdResponse::Range(found)) if found.entries.is_empty())
}
