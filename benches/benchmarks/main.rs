//! Benchmarks of the `callboard` binary over loopback.
//!
//! ```text
//! cargo bench --bench benchmarks              memory, delays, lines of code
//! cargo bench --bench benchmarks -- load      Callboard and a minimal tonic server, in pairs of runs
//! cargo bench --bench benchmarks -- consul    Consul's API and a minimal axum server, in pairs; health checks; DNS
//! cargo bench --bench benchmarks -- xds       xDS and a minimal tonic server, in pairs
//! cargo bench --bench benchmarks -- client    channels of the Rust client, and a channel of tonic, in pairs
//! cargo bench --bench benchmarks -- store     the disk engine: rates and recovery
//! cargo bench --bench benchmarks -- sweep     expiry sweeps over a million leases
//! cargo bench --bench benchmarks -- etcd      replicas over etcd, with --instances instances (needs Go)
//! cargo bench --bench benchmarks -- … -o json the same as one JSON object
//! ```
//!
//! `--only NAME` selects the rows of `load`, `consul`, `xds`, `client` and `etcd` whose names contain NAME. The rows of `consul` are:
//!
//! ```text
//! register_plain, register_checked             agent/service/register of new instances, 16 in flight; without and with a check
//! ttl_pass                                     agent/check/pass, 64 in flight
//! health_10_plain, health_10_gzip              health/service?passing of 10 instances, 64 in flight; without and with gzip
//! answers_1_at_5, answers_1_at_20              answers to 1,000 blocking queries: 5 or 20 writes a second, 1 instance
//! answers_100_at_2                             2 writes a second, 100 instances
//! blocking_query_memory                        memory of 10,000 blocking queries
//! other_changes                                blocking queries while another service changes
//! failure                                      delay from a failed check to a watch, a blocking query and DNS
//! checks_20000                                 20,000 HTTP checks at 10 s
//! dns                                          A and SRV of 10 instances, by dnsperf (Debian: apt-get install dnsperf)
//! ```
//!
//! The rows of `xds` are:
//!
//! ```text
//! xds_fan_out_100                              1,000 clients of a service of 100 instances; one change at a time
//! xds_fan_out_5000                             1,000 clients of a service of 5,000 instances, 100 changes a second; another service
//! xds_clients_10000                            10,000 clients, each of a service of its own
//! xds_wildcard_sotw, xds_wildcard_delta        one client of 10,000 services, as Envoy is, with either protocol
//! xds_policy_none                              4 clients of a service of 1,000 instances without a policy, each in a zone of its own
//! xds_policy_zones                             the same with zone preference: each gets an assignment of its own
//! xds_policy_subsets                           1 client of a service of 1,000 instances with 16 subsets and 32 routes
//! xds_restart_off, xds_restart_prefer          1,000 clients in 5 zones while 500 instances restart, without and with zone preference
//! xds_restart_by_zone_off, xds_restart_by_zone_prefer
//!                                              the same, one zone after the other
//! ```
//!
//! The rows of `client` are:
//!
//! ```text
//! channel_sequential, channel_concurrent       time of a call, 1 and 64 in progress, beside a channel of tonic
//! channel_slow_round_robin, channel_slow_weighted, channel_slow_least_request, channel_slow_peak_ewma
//!                                              response times with one slow instance of four
//! ```
//!
//! The rows of `etcd` are:
//!
//! ```text
//! etcd_rates                                   committed registrations, 64 and 1,000 clients, beside a plain client of etcd
//! etcd_changes                                 costs of a change with three replicas, and of its delivery to 1,000 and 10,000 watchers
//! etcd_idle                                    CPU, memory and data without changes, with and without heartbeats; start of a replica
//! etcd_takeover                                kill -9 of the replica that holds all instances
//! etcd_catch_up                                replica that was stopped while all instances changed
//! etcd_outage                                  etcd down for a minute
//! ```
//!
//! Each measurement starts a server of its own as a child process.

mod baseline;
mod channel;
mod client;
mod compare;
mod consul;
mod delay;
mod etcd;
mod lines;
mod load;
mod memory;
mod processes;
mod removal;
mod report;
mod store;
mod sweep;
mod xds;

use std::time::Instant;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use tokio::runtime;

use report::Report;

/// Benchmarks of Callboard
#[derive(Debug, Parser)]
struct Arguments {
    /// Group of benchmarks
    #[arg(value_enum, default_value_t)]
    what: Measure,
    /// Run only the rows whose name contains this text (load, consul, xds, client and etcd)
    #[arg(long, default_value = "")]
    only: String,
    /// Number of pairs of runs; the medians are reported (load, consul, xds, client and etcd)
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Number of instances (etcd)
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    instances: u32,
    /// Format of the results
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Flag that `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Measure {
    /// Memory, delays and lines of code
    #[default]
    Resources,
    /// Callboard and the gRPC baseline, in pairs
    Load,
    /// Consul's API and its baseline, in pairs; health checks and DNS
    Consul,
    /// xDS and its baseline, in pairs
    Xds,
    /// Channels of the Rust client
    Client,
    /// The disk engine
    Store,
    /// Expiry sweeps over a million leases
    Sweep,
    /// Replicas over etcd
    Etcd,
    /// Serve the gRPC baseline, a minimal tonic server, until killed
    #[value(hide = true)]
    GrpcBaseline,
    /// Serve the Consul baseline, a minimal axum server, until killed
    #[value(hide = true)]
    ConsulBaseline,
    /// Serve the xDS baseline, a minimal tonic server, until killed
    #[value(hide = true)]
    XdsBaseline,
    /// Serve the instances that channels call, until killed
    #[value(hide = true)]
    ChannelBackend,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Output {
    /// Text
    #[default]
    Table,
    /// One JSON object
    Json,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let report = match arguments.what {
        Measure::Resources => {
            runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(resources())?
        }
        Measure::Store => {
            let mut report = Report::default();
            let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(store::run(&mut report))?;
            report
        }
        Measure::Load => {
            // Set before any thread starts, so that all threads inherit it.
            processes::pin_this_process()?;
            one_thread()?.block_on(compare::run(&arguments.only, arguments.pairs.max(1)))?
        }
        Measure::Consul => {
            processes::pin_this_process()?;
            one_thread()?.block_on(consul::run(&arguments.only, arguments.pairs.max(1)))?
        }
        Measure::Xds => {
            processes::pin_this_process()?;
            one_thread()?.block_on(xds::run(&arguments.only, arguments.pairs.max(1)))?
        }
        Measure::Client => {
            processes::pin_this_process()?;
            one_thread()?.block_on(channel::run(&arguments.only, arguments.pairs.max(1)))?
        }
        Measure::Sweep => {
            let mut report = Report::default();
            sweep::run(&mut report)?;
            report
        }
        Measure::Etcd => {
            let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(etcd::run(&arguments.only, arguments.pairs.max(1), arguments.instances as usize))?
        }
        Measure::GrpcBaseline => return one_thread()?.block_on(baseline::serve()),
        Measure::ConsulBaseline => return one_thread()?.block_on(consul::baseline::serve()),
        Measure::XdsBaseline => return one_thread()?.block_on(xds::baseline::serve()),
        Measure::ChannelBackend => return one_thread()?.block_on(channel::backend::serve()),
    };
    match arguments.output {
        Output::Table => print!("{}", report.to_table()),
        Output::Json => println!("{}", report.to_json()),
    }
    Ok(())
}

async fn resources() -> Result<Report> {
    let mut report = Report::default();
    memory::instances(&mut report).await?;
    memory::watches(&mut report).await?;
    memory::keep_alives(&mut report).await?;
    delay::run(&mut report).await?;
    removal::run(&mut report).await?;
    lines::count(&mut report)?;
    Ok(report)
}

fn one_thread() -> std::io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// Returns the current time; benchmarks are the only code outside of `clock.rs` that reads it.
#[expect(clippy::disallowed_methods, reason = "this program measures time")]
fn now() -> Instant {
    Instant::now()
}
