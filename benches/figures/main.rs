//! Callboard's own figures, measured on the real binary over loopback.
//!
//! ```text
//! cargo bench --bench figures                 memory, delays, lines of code
//! cargo bench --bench figures -- load         Callboard beside a bare tonic server, in pairs
//! cargo bench --bench figures -- consul       the door for Consul's API beside a bare axum server, health checks, DNS
//! cargo bench --bench figures -- store        the disk engine: rates and recovery
//! cargo bench --bench figures -- sweep        what a million leases cost
//! cargo bench --bench figures -- … -o json    the same as one JSON object
//! ```
//!
//! `--only NAME` picks rows of `load` and `consul` by a part of their names; those of `consul` are:
//!
//! ```text
//! register_plain, register_checked             agent/service/register of ever new instances, 16 in flight; with a check
//! ttl_pass                                     agent/check/pass, 64 in flight
//! health_10_plain, health_10_gzip              health/service?passing of 10 instances, 64 in flight; packed
//! answers_1_at_5, answers_1_at_20              answers to 1,000 parked queries: 5 or 20 writes a second, 1 instance
//! answers_100_at_2                             2 writes a second, 100 instances
//! parked_memory                                10,000 parked queries
//! other_changes                                parked queries while another service changes
//! failure                                      from a failed check to a watch, a blocking query and DNS
//! checks_20000                                 20,000 HTTP checks at 10 s
//! dns                                          A and SRV of 10 instances, by dnsperf (Debian: apt-get install dnsperf)
//! ```
//!
//! Every figure is taken on a server of its own, which is a child of this process and ends with it.

mod children;
mod client;
mod compare;
mod consul;
mod delay;
mod limit;
mod lines;
mod load;
mod memory;
mod removal;
mod report;
mod store;
mod sweep;

use std::time::Instant;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use tokio::runtime;

use report::Report;

/// Callboard's own figures
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure
    #[arg(value_enum, default_value_t)]
    what: What,
    /// Only work whose name contains this (load and consul only)
    #[arg(long, default_value = "")]
    only: String,
    /// How many pairs of runs the medians are of (load and consul only)
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// How figures are printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum What {
    /// Memory, delays and lines of code
    #[default]
    Figures,
    /// Callboard beside the limit
    Load,
    /// The door for Consul's API beside its limit, health checks and DNS
    Consul,
    /// The disk engine
    Store,
    /// Looking after a million leases
    Sweep,
    /// Be the limit: a bare tonic server, until killed
    #[value(hide = true)]
    Limit,
    /// Be the limit of the door for Consul's API: a bare axum server, until killed
    #[value(hide = true)]
    ConsulLimit,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// One object
    Json,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let report = match arguments.what {
        What::Figures => {
            runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(figures())?
        }
        What::Store => {
            let mut report = Report::default();
            let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(store::run(&mut report))?;
            report
        }
        What::Load => {
            // Before any thread is started: all of them inherit it.
            children::pin_this_process()?;
            one_thread()?.block_on(compare::run(&arguments.only, arguments.pairs.max(1)))?
        }
        What::Consul => {
            children::pin_this_process()?;
            one_thread()?.block_on(consul::run(&arguments.only, arguments.pairs.max(1)))?
        }
        What::Sweep => {
            let mut report = Report::default();
            sweep::run(&mut report)?;
            report
        }
        What::Limit => return one_thread()?.block_on(limit::serve()),
        What::ConsulLimit => return one_thread()?.block_on(consul::bare::serve()),
    };
    match arguments.output {
        Output::Table => print!("{}", report.to_table()),
        Output::Json => println!("{}", report.to_json()),
    }
    Ok(())
}

async fn figures() -> Result<Report> {
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

/// The stopwatch.
#[expect(clippy::disallowed_methods, reason = "measuring is what this program is for")]
fn now() -> Instant {
    Instant::now()
}
