//! `--wait`: waits until the connected xDS clients have a policy.

use std::{io::Write as _, time::Duration};

use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::{
    cli::{
        connection::{ServerConnection, with_deadline},
        error::CliError,
        output::{self, OutputFormat, Printable},
        terminal::print_stderr,
        view::{or_dash, set},
    },
    pb::callboard::v1::{GetPolicyRolloutRequest, GetPolicyRolloutResponse, UnsyncedStream},
};

/// Time between two calls. The registry has no stream of acknowledgements: one command waits for them now and then, for a second
/// or so, and a call that counts streams costs less than a stream that every acknowledgement of every client would wake.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Clients that have a policy, and clients that do not.
#[derive(Debug, Serialize)]
pub(super) struct RolloutView {
    /// Set if all streams have the policy.
    complete: bool,
    revision: u64,
    streams: u32,
    synced: u32,
    unsynced: Vec<UnsyncedStreamView>,
}

#[derive(Debug, Serialize)]
struct UnsyncedStreamView {
    node_id: Option<String>,
    agent: Option<String>,
    peer: String,
    policy_revision: u64,
    reason: String,
}

impl From<UnsyncedStream> for UnsyncedStreamView {
    fn from(stream: UnsyncedStream) -> Self {
        Self {
            node_id: set(stream.node_id),
            agent: set(stream.agent),
            peer: stream.peer,
            policy_revision: stream.policy_revision,
            reason: stream.reason,
        }
    }
}

impl Printable for UnsyncedStreamView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["NODE", "CLIENT", "PEER", "REVISION", "REASON"], &[]);

    fn cells(&self) -> Vec<String> {
        vec![
            or_dash(self.node_id.as_deref()),
            or_dash(self.agent.as_deref()),
            self.peer.clone(),
            self.policy_revision.to_string(),
            self.reason.clone(),
        ]
    }

    fn name(&self) -> String {
        self.node_id.clone().unwrap_or_else(|| self.peer.clone())
    }
}

impl RolloutView {
    fn new(wanted: u64, response: GetPolicyRolloutResponse) -> Self {
        Self {
            complete: response.revision >= wanted && response.synced >= response.streams,
            revision: response.revision,
            streams: response.streams,
            synced: response.synced,
            unsynced: response.unsynced.into_iter().map(UnsyncedStreamView::from).collect(),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Prints the number of clients that have the policy, and those that do not have it after this time.
    pub(super) fn print(&self, format: OutputFormat, limit: Duration) -> Result<(), CliError> {
        let Self { streams, synced, .. } = self;
        if self.complete {
            let line = match streams {
                0 => "no xDS stream subscribes to it".to_owned(),
                1 => "the only xDS stream has it".to_owned(),
                streams => format!("all {streams} xDS streams have it"),
            };
            writeln!(anstream::stdout(), "{line}")?;
            return Ok(());
        }
        let limit = humantime::format_duration(limit);
        print_stderr(&format!("error: only {synced} of {streams} xDS streams have it after {limit}"));
        output::list(format, &self.unsynced, "")
    }
}

/// Waits until all streams have this revision of a policy, for at most this time. `service` is empty for all services.
pub(super) async fn wait_for_rollout(
    connection: &ServerConnection,
    service: String,
    revision: u64,
    limit: Duration,
) -> Result<RolloutView, CliError> {
    let mut latest = get_rollout(connection, service.clone(), revision).await?;
    let waiting = async {
        while !latest.is_complete() {
            sleep(POLL_INTERVAL).await;
            latest = get_rollout(connection, service.clone(), revision).await?;
        }
        Ok(())
    };
    match timeout(limit, waiting).await {
        Ok(result) => result.map(|()| latest),
        Err(_) => Ok(latest),
    }
}

async fn get_rollout(connection: &ServerConnection, service: String, wanted: u64) -> Result<RolloutView, CliError> {
    let request = with_deadline(GetPolicyRolloutRequest { service });
    let response = connection.call(connection.xds().get_policy_rollout(request)).await?;
    Ok(RolloutView::new(wanted, response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollout_is_complete_once_all_streams_have_the_revision() {
        let rollout = |revision, streams, synced| {
            let response = GetPolicyRolloutResponse { revision, streams, synced, unsynced: Vec::new() };
            RolloutView::new(7, response).is_complete()
        };
        assert!(rollout(7, 3, 3) && rollout(8, 0, 0));
        assert!(!rollout(7, 3, 2) && !rollout(6, 3, 3));
    }
}
