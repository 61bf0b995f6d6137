//! Resources of the process, under the names that the client libraries of Prometheus use for every program.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use rustix::time::{ClockId, clock_gettime};

use super::registrar::{MetricType, Registrar};

/// Metric that is read from the operating system at each scrape: name without suffix, type, help.
type Sampled = (&'static str, MetricType, &'static str);

const CPU: Sampled =
    ("process_cpu_seconds", MetricType::Counter, "CPU time of the process, user and system, in seconds");
const MEMORY: Sampled =
    ("process_resident_memory_bytes", MetricType::Gauge, "Resident memory of the process, in bytes");
const DESCRIPTORS: Sampled = ("process_open_fds", MetricType::Gauge, "Open file descriptors of the process");

/// Registers the metrics of the process.
pub(super) fn register(registrar: &mut Registrar) {
    registrar.collector(ProcessCollector, &[CPU, MEMORY, DESCRIPTORS]);
}

/// Reads the resources of the process. A value that cannot be read is left out.
#[derive(Debug)]
struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode(&mut encoder, CPU, &ConstCounter::new(cpu_seconds()))?;
        if let Some(bytes) = resident_bytes() {
            encode(&mut encoder, MEMORY, &ConstGauge::new(bytes))?;
        }
        if let Some(open) = open_descriptors() {
            encode(&mut encoder, DESCRIPTORS, &ConstGauge::new(open))?;
        }
        Ok(())
    }
}

fn encode(encoder: &mut DescriptorEncoder<'_>, (name, _, help): Sampled, metric: &impl EncodeMetric) -> fmt::Result {
    let encoder = encoder.encode_descriptor(name, &format!("{help}."), None, metric.metric_type())?;
    metric.encode(encoder)
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
    let (seconds, nanoseconds) = (time.tv_sec as f64, time.tv_nsec as f64);
    seconds + nanoseconds / 1e9
}

/// Reads `VmRSS` of `/proc/self/status`, which is in KiB.
fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<i64>().ok()?.checked_mul(1024)
}

/// Counts `/proc/self/fd`, without the descriptor that reads it.
fn open_descriptors() -> Option<i64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    i64::try_from(entries.checked_sub(1)?).ok()
}

#[cfg(test)]
mod tests {
    use std::{fs::File, hint::black_box, iter};

    use super::*;

    #[test]
    fn cpu_time_rises_while_the_process_computes() {
        let before = cpu_seconds();
        let rises = iter::repeat_with(|| black_box(cpu_seconds())).take(10_000_000).any(|now| now > before);
        assert!(before > 0.0 && rises, "{before} s");
    }

    #[test]
    fn resident_memory_includes_pages_that_were_written() {
        const ADDED: usize = 64 << 20;
        let before = resident_bytes().unwrap();
        let written = black_box(vec![1_u8; ADDED]);
        let after = resident_bytes().unwrap();
        // Other tests of this process free and allocate memory meanwhile.
        assert!(after - before > i64::try_from(written.len()).unwrap() / 2, "{before} B, then {after} B");
    }

    #[test]
    fn open_descriptors_include_open_files() {
        const OPENED: usize = 200;
        let before = open_descriptors().unwrap();
        let files: Vec<File> = iter::repeat_with(|| File::open("/dev/null").unwrap()).take(OPENED).collect();
        let after = open_descriptors().unwrap();
        assert!(after - before > i64::try_from(files.len()).unwrap() / 2, "{before}, then {after}");
    }
}
