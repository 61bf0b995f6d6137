//! `--wait`: waits until the connected xDS clients have a policy.

use std::{io::Write as _, time::Duration};

use serde::Serialize;
use tokio::time::{sleep, timeout};

use crate::{
    cli::{
        connection::{ServerConnection, with_deadline},
        error::CliError,
        output::{self, OutputFormat, Printable},
        terminal::{escape, print_stderr},
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
    /// Revision of the last policy that the client has accepted. 0: none.
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
        (&["NODE", "CLIENT", "PEER", "ACCEPTED", "REASON"], &[]);

    fn cells(&self) -> Vec<String> {
        vec![
            or_dash(self.node_id.as_deref()),
            or_dash(self.agent.as_deref()),
            self.peer.clone(),
            or_dash((self.policy_revision > 0).then(|| self.policy_revision.to_string()).as_deref()),
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

    /// Joins the views of the replicas.
    fn of_replicas(replicas: Vec<Self>) -> Self {
        let joined = Self { complete: true, revision: u64::MAX, streams: 0, synced: 0, unsynced: Vec::new() };
        replicas.into_iter().fold(joined, |mut joined, replica| {
            joined.complete &= replica.complete;
            joined.revision = joined.revision.min(replica.revision);
            joined.streams += replica.streams;
            joined.synced += replica.synced;
            joined.unsynced.extend(replica.unsynced);
            joined
        })
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Prints the number of clients that have the policy, and those that do not have it after this time. `arguments`: those that name the
    /// policy on the command line.
    pub(super) fn print(&self, format: OutputFormat, limit: Duration, arguments: &str) -> Result<(), CliError> {
        let Self { streams, synced, .. } = self;
        if self.complete {
            let line = match streams {
                0 => "no xDS client subscribes to it".to_owned(),
                1 => "the only xDS client has it".to_owned(),
                streams => format!("all {streams} xDS clients have it"),
            };
            writeln!(anstream::stdout(), "{line}")?;
            return Ok(());
        }
        let limit = humantime::format_duration(limit);
        let text = format!(
            "the policy is set, but {synced} of {streams} xDS clients have it after {limit}: see `callboard clients`, or go back \
             with `callboard policy rollback {arguments}`"
        );
        print_stderr(&format!("error: {}", escape(&text)));
        output::list(format, &self.unsynced, "")
    }
}

/// Waits until all streams have this revision of a policy, for at most this time. `service` is empty for all services.
///
/// The policy is set, so a registry that cannot be reached is waited for, too. After a restart its clients connect again one by one, so there
/// have to be as many as before.
pub(super) async fn wait_for_rollout(
    connection: &ServerConnection,
    service: String,
    revision: u64,
    limit: Duration,
) -> Result<RolloutView, CliError> {
    let (mut streams, mut is_lost) = (0, false);
    let mut latest = Err(CliError::Usage("the time of --wait is too short: give 1s or more".into()));
    let waiting = async {
        loop {
            latest = match get_rollout(connection, service.clone(), revision).await {
                Err(error) if error.is_unreachable() => {
                    is_lost = true;
                    Err(error)
                }
                Err(error) => return Err(error),
                Ok(rollout) if rollout.complete && (!is_lost || rollout.streams >= streams) => return Ok(rollout),
                Ok(rollout) => {
                    streams = streams.max(rollout.streams);
                    Ok(RolloutView { complete: false, ..rollout })
                }
            };
            sleep(POLL_INTERVAL).await;
        }
    };
    match timeout(limit, waiting).await {
        Ok(result) => result,
        Err(_) => latest.map_err(|error| error.in_part("the policy is set, but its clients are unknown")),
    }
}

async fn get_rollout(connection: &ServerConnection, service: String, wanted: u64) -> Result<RolloutView, CliError> {
    let request = GetPolicyRolloutRequest { service };
    let answers = connection
        .each(async |server| server.call(server.xds().get_policy_rollout(with_deadline(request.clone()))).await);
    let mut all = Vec::new();
    for (address, answer) in answers.await {
        // The clients of a replica that does not answer are unknown, until they connect to another one.
        all.push(RolloutView::new(wanted, answer.map_err(|error| CliError::Call { address, error })?));
    }
    Ok(RolloutView::of_replicas(all))
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
