//! Several replicas over a cluster of etcd: three members, which sync each change to disk, and one to three replicas, all as processes
//! on this machine. The load and all servers share its cores, so CPU time and ratios within one run are reliable where rates are not.

mod catch_up;
mod changes;
mod cluster;
mod fleet;
mod idle;
mod observer;
mod outage;
mod rates;
mod replicas;
mod takeover;

use anyhow::Result;

use crate::report::Report;

/// Number of services that the instances are spread over.
const SERVICES: usize = 100;

/// Runs the rows whose names contain `only`, with this number of instances.
pub async fn run(only: &str, pairs: usize, instances: usize) -> Result<Report> {
    let mut report = Report::default();
    let is_wanted = |name: &str| name.contains(only);
    if is_wanted("etcd_rates") {
        rates::run(&mut report, pairs, instances).await?;
    }
    if is_wanted("etcd_changes") {
        changes::run(&mut report, instances).await?;
    }
    if is_wanted("etcd_idle") {
        idle::run(&mut report, instances).await?;
    }
    if is_wanted("etcd_takeover") {
        takeover::run(&mut report, instances).await?;
    }
    if is_wanted("etcd_catch_up") {
        catch_up::run(&mut report, instances).await?;
    }
    if is_wanted("etcd_outage") {
        outage::run(&mut report, instances).await?;
    }
    Ok(report)
}

/// Returns a count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}
