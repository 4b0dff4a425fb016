//! What the host counts, and the page of `GET /metrics` in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::log::dropped_lines;

/// One more than the highest status that is counted by itself.
const STATUSES: usize = 600;

/// A counter or gauge for Prometheus: its name, its kind, what it is, and its value.
type Counter<'a> = (&'static str, &'static str, &'static str, &'a AtomicU64);

/// The counters of a host. The edges and the driver of the world add to them; nobody waits for them.
#[derive(Debug)]
pub struct Metrics {
    /// Replies sent, by HTTP status.
    requests: [AtomicU64; STATUSES],
    /// Requests that run now.
    pub requests_in_flight: AtomicU64,
    /// Bytes of request bodies received.
    pub request_body_bytes: AtomicU64,
    /// Bytes of reply bodies sent.
    pub reply_body_bytes: AtomicU64,
    /// Connections that are open now.
    pub connections_open: AtomicU64,
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections closed because they were idle, or slow to send a request.
    pub connections_expired: AtomicU64,
    /// Connections closed to make room for others, because they kept the host waiting longest.
    pub connections_displaced: AtomicU64,
    /// Bytes that requests and replies hold, as was last looked.
    pub held_bytes: AtomicU64,
    /// Ticks of the world.
    pub ticks: AtomicU64,
    /// Time spent in ticks.
    pub tick_sum_us: AtomicU64,
    /// The longest tick.
    pub tick_max_us: AtomicU64,
    /// Transactions committed.
    pub transactions_committed: AtomicU64,
    /// Transactions aborted, for whatever reason.
    pub transactions_aborted: AtomicU64,
    /// Attempts repeated inside the host after a conflict.
    pub transactions_retried: AtomicU64,
    /// Conflicts, whether they were retried or answered 409.
    pub transactions_conflicted: AtomicU64,
    /// Transactions that outlived `--request_ttl`.
    pub transactions_timed_out: AtomicU64,
    /// Durable commits of the storage.
    pub storage_commits: AtomicU64,
    /// Time spent in durable commits.
    pub storage_commit_sum_us: AtomicU64,
    /// Bytes appended to the log.
    pub storage_log_bytes: AtomicU64,
    /// Bytes of rows that did not fit in memory, written to the workspace.
    pub spilled_bytes: AtomicU64,
    /// For how much the disk has room, as was last looked, in bytes.
    pub disk_room_bytes: AtomicU64,
    /// Whether the storage or a tick has failed, so that the host stops.
    pub poisoned: AtomicBool,
    /// The chains that are not served because what is stored of them does not verify, and why.
    refused: Mutex<BTreeMap<String, String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            requests: std::array::from_fn(|_| zero()),
            requests_in_flight: zero(),
            request_body_bytes: zero(),
            reply_body_bytes: zero(),
            connections_open: zero(),
            connections: zero(),
            connections_expired: zero(),
            connections_displaced: zero(),
            held_bytes: zero(),
            ticks: zero(),
            tick_sum_us: zero(),
            tick_max_us: zero(),
            transactions_committed: zero(),
            transactions_aborted: zero(),
            transactions_retried: zero(),
            transactions_conflicted: zero(),
            transactions_timed_out: zero(),
            storage_commits: zero(),
            storage_commit_sum_us: zero(),
            storage_log_bytes: zero(),
            spilled_bytes: zero(),
            disk_room_bytes: zero(),
            poisoned: AtomicBool::new(false),
            refused: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Count a reply.
    pub fn count_reply(&self, status: u16, body_bytes: usize) {
        self.requests[usize::from(status).min(STATUSES - 1)].fetch_add(1, Relaxed);
        self.reply_body_bytes.fetch_add(body_bytes as u64, Relaxed);
    }

    /// How many replies had this status.
    pub fn replies(&self, status: u16) -> u64 {
        self.requests.get(usize::from(status)).map_or(0, |count| count.load(Relaxed))
    }

    /// Count a tick of the world.
    pub fn count_tick(&self, duration_us: u64) {
        self.ticks.fetch_add(1, Relaxed);
        self.tick_sum_us.fetch_add(duration_us, Relaxed);
        self.tick_max_us.fetch_max(duration_us, Relaxed);
    }

    /// Count a durable commit of the storage.
    pub fn count_storage_commit(&self, duration_us: u64, log_bytes: u64) {
        self.storage_commits.fetch_add(1, Relaxed);
        self.storage_commit_sum_us.fetch_add(duration_us, Relaxed);
        self.storage_log_bytes.fetch_add(log_bytes, Relaxed);
    }

    /// These chains are not served, for these reasons.
    pub fn note_refused(&self, refused: BTreeMap<String, String>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// The chains that are not served, and why.
    pub fn refused(&self) -> BTreeMap<String, String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the edge counts: name, kind, what it is.
    fn edge_counters(&self) -> Vec<Counter<'_>> {
        vec![
            ("requests_in_flight", "gauge", "Requests that run now.", &self.requests_in_flight),
            (
                "request_body_bytes_total",
                "counter",
                "Bytes of request bodies received.",
                &self.request_body_bytes,
            ),
            ("reply_body_bytes_total", "counter", "Bytes of reply bodies sent.", &self.reply_body_bytes),
            ("connections_open", "gauge", "Connections that are open now.", &self.connections_open),
            ("connections_total", "counter", "Connections accepted.", &self.connections),
            (
                "connections_expired_total",
                "counter",
                "Connections closed because they were idle or slow.",
                &self.connections_expired,
            ),
            (
                "connections_displaced_total",
                "counter",
                "Connections closed to make room for others.",
                &self.connections_displaced,
            ),
            (
                "held_bytes",
                "gauge",
                "What requests and replies hold of --max_bodies_bytes.",
                &self.held_bytes,
            ),
        ]
    }

    /// What the world counts: name, kind, what it is.
    fn world_counters(&self) -> Vec<Counter<'_>> {
        vec![
            ("ticks_total", "counter", "Ticks of the world.", &self.ticks),
            ("tick_duration_microseconds_total", "counter", "Time spent in ticks.", &self.tick_sum_us),
            ("tick_duration_microseconds_max", "gauge", "The longest tick.", &self.tick_max_us),
            (
                "transactions_committed_total",
                "counter",
                "Transactions committed.",
                &self.transactions_committed,
            ),
            ("transactions_aborted_total", "counter", "Transactions aborted.", &self.transactions_aborted),
            (
                "transactions_retried_total",
                "counter",
                "Attempts repeated after a conflict.",
                &self.transactions_retried,
            ),
            (
                "transactions_conflicted_total",
                "counter",
                "Conflicts, retried or answered 409.",
                &self.transactions_conflicted,
            ),
            (
                "transactions_timed_out_total",
                "counter",
                "Transactions that outlived their time limit.",
                &self.transactions_timed_out,
            ),
        ]
    }

    /// What the storage counts: name, kind, what it is.
    fn storage_counters(&self) -> Vec<Counter<'_>> {
        vec![
            ("storage_commits_total", "counter", "Durable commits.", &self.storage_commits),
            (
                "storage_commit_microseconds_total",
                "counter",
                "Time spent in durable commits.",
                &self.storage_commit_sum_us,
            ),
            ("storage_log_bytes_total", "counter", "Bytes appended to the log.", &self.storage_log_bytes),
            (
                "spilled_bytes_total",
                "counter",
                "Bytes of rows written to the workspace.",
                &self.spilled_bytes,
            ),
            (
                "disk_room_bytes",
                "gauge",
                "For how much the disk has room, in what is kept for deletes not counted.",
                &self.disk_room_bytes,
            ),
        ]
    }

    /// Everything in the text format of Prometheus.
    pub fn to_prometheus(&self) -> String {
        let mut page = String::with_capacity(4096);
        let mut write = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            // Writing to a string does not fail.
            let _ = writeln!(page, "# HELP tinychain_{name} {help}\n# TYPE tinychain_{name} {kind}");
            for (labels, count) in samples {
                let _ = writeln!(page, "tinychain_{name}{labels} {count}");
            }
        };
        let counts = self.requests.iter().map(|count| count.load(Relaxed)).enumerate();
        let statuses: Vec<_> = counts
            .filter(|(_, count)| *count > 0)
            .map(|(status, count)| (format!("{{status=\"{status}\"}}"), count))
            .collect();
        write("requests_total", "counter", "Replies by HTTP status.", &statuses);
        let counters = [self.edge_counters(), self.world_counters(), self.storage_counters()];
        for (name, kind, help, count) in counters.concat() {
            write(name, kind, help, &[(String::new(), count.load(Relaxed))]);
        }
        let dropped = dropped_lines();
        write(
            "log_lines_dropped_total",
            "counter",
            "Lines of the log that nobody read in time.",
            &[(String::new(), dropped)],
        );
        let refused = self.refused().len() as u64;
        let help = "Chains that are not served because what is stored of them does not verify.";
        write("chains_refused", "gauge", help, &[(String::new(), refused)]);
        let poisoned = u64::from(self.poisoned.load(Relaxed));
        write("poisoned", "gauge", "1 if the storage or a tick has failed.", &[(String::new(), poisoned)]);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_sample_on_a_line() {
        let metrics = Metrics::default();
        metrics.count_reply(200, 5);
        metrics.count_reply(200, 5);
        metrics.count_reply(404, 20);
        metrics.count_tick(7);
        metrics.count_storage_commit(3, 100);
        let page = metrics.to_prometheus();
        for line in [
            "tinychain_requests_total{status=\"200\"} 2",
            "tinychain_requests_total{status=\"404\"} 1",
            "tinychain_reply_body_bytes_total 30",
            "tinychain_tick_duration_microseconds_max 7",
            "tinychain_storage_log_bytes_total 100",
            "tinychain_chains_refused 0",
            "tinychain_poisoned 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
        }
    }
}
