//! What one client may use of the server, so that the others notice nothing (protocol page 01 §8).

use std::time::Duration;

use clap::Args;

/// The largest body of a request.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The largest body of rows that need not be in memory all at once.
pub const ROWS_BYTES_MAX: u64 = 16 << 30;

/// The largest reply: a state of a few bytes may name the same large op or chain a million times.
pub const REPLY_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The bytes of all requests together that wait for their replies: their bodies, and the states these hold; and of
/// large replies that wait to be sent.
pub const BODIES_BYTES_MAX: usize = 512 * 1024 * 1024;

/// How many connections are open at once; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 4096;

/// The largest head of a request: its URL and headers. (A URL alone is at most 65,534 bytes.)
pub const HEADER_BYTES_MAX: usize = 128 * 1024;

/// How many requests of one HTTP/2 connection run at once.
pub const STREAMS_MAX: u32 = 256;

/// How long the head of a request may take to arrive.
pub const HEADER_TIMEOUT_MS: u64 = 10_000;

/// How long the body of a request may keep the host waiting, beyond what its bytes pay for at 4 KiB/s.
pub const BODY_IDLE_TIMEOUT_MS: u64 = 10_000;

/// How long the body of a request may take to arrive.
pub const BODY_TIMEOUT_MS: u64 = 120_000;

/// How long a connection stays open without a request.
pub const IDLE_TIMEOUT_MS: u64 = 75_000;

/// How long a client may leave a reply unread, beyond what it pays for by reading 4 KiB/s: as long as that goes on, the
/// reply, or what it shows, is kept.
pub const REPLY_IDLE_TIMEOUT_MS: u64 = 30_000;

/// How long requests that run have to finish when the server stops.
pub const DRAIN_TIMEOUT_MS: u64 = 1_000;

/// A body or reply beyond this is decoded or encoded on a thread of its own, so that it does not stall others.
pub const INLINE_BYTES_MAX: usize = 256 * 1024;

/// The limits of the HTTP server, as flags.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits of the HTTP server")]
pub struct HttpConfig {
    /// Largest body of a request, in bytes; beyond it the answer is 413.
    #[arg(long = "max_body_bytes", value_name = "BYTES", default_value_t = BODY_BYTES_MAX)]
    pub max_body_bytes: usize,
    /// Largest body of rows for a hosted collection, as Arrow or CSV, in bytes; beyond it the answer is 413. They go to
    /// --workspace. One batch of Arrow has --max_body_bytes; so have rows that a block chain records, and an eighth of
    /// --cache_size, 8 MiB at least, if that is less.
    #[arg(long = "max_rows_bytes", value_name = "BYTES", default_value_t = ROWS_BYTES_MAX)]
    pub max_rows_bytes: u64,
    /// Largest reply, in bytes, not counting rows that are streamed; beyond it the answer is 413.
    #[arg(long = "max_reply_bytes", value_name = "BYTES", default_value_t = REPLY_BYTES_MAX)]
    pub max_reply_bytes: usize,
    /// Bytes of all request bodies, of what they decode to, and of large replies until they are read; beyond it 503. Of it,
    /// several requests of one connection get a quarter, and large ones all but an eighth.
    #[arg(long = "max_bodies_bytes", value_name = "BYTES", default_value_t = BODIES_BYTES_MAX)]
    pub max_bodies_bytes: usize,
    /// Connections that are open at once, if so many files may be open; for more, those that keep the host waiting longest
    /// are closed.
    #[arg(long = "max_connections", value_name = "N", default_value_t = CONNECTIONS_MAX,
          value_parser = at_least_one)]
    pub max_connections: usize,
    /// Largest head of a request, URL included, in bytes (at least 8192).
    #[arg(long = "max_header_bytes", value_name = "BYTES", default_value_t = HEADER_BYTES_MAX)]
    pub max_header_bytes: usize,
    /// Requests of one HTTP/2 connection that run at once.
    #[arg(long = "max_streams", value_name = "N", default_value_t = STREAMS_MAX)]
    pub max_streams: u32,
    /// Time for the head of a request to arrive, in milliseconds.
    #[arg(long = "header_timeout_ms", value_name = "MS", default_value_t = HEADER_TIMEOUT_MS)]
    pub header_timeout_ms: u64,
    /// Time that the body of a request may keep the host waiting, beyond what it brings at 4 KiB/s, in milliseconds; then
    /// the answer is 408.
    #[arg(long = "body_idle_timeout_ms", value_name = "MS", default_value_t = BODY_IDLE_TIMEOUT_MS)]
    pub body_idle_timeout_ms: u64,
    /// Time for the body of a request to arrive, in milliseconds; beyond it the answer is 408.
    #[arg(long = "body_timeout_ms", value_name = "MS", default_value_t = BODY_TIMEOUT_MS)]
    pub body_timeout_ms: u64,
    /// Time that a connection stays open without a request, in milliseconds.
    #[arg(long = "idle_timeout_ms", value_name = "MS", default_value_t = IDLE_TIMEOUT_MS)]
    pub idle_timeout_ms: u64,
    /// Time that a client may leave a reply unread, beyond what it reads at 4 KiB/s, in milliseconds; then its connection is
    /// closed.
    #[arg(long = "reply_idle_timeout_ms", value_name = "MS", default_value_t = REPLY_IDLE_TIMEOUT_MS)]
    pub reply_idle_timeout_ms: u64,
    /// Let /debug/world?values=true show values and keys that clients have stored, to whoever can reach the host.
    #[arg(long = "debug_values")]
    pub debug_values: bool,
    /// Time for running requests to finish when the host stops, in milliseconds.
    #[arg(long = "drain_timeout_ms", value_name = "MS", default_value_t = DRAIN_TIMEOUT_MS)]
    pub drain_timeout_ms: u64,
}

impl HttpConfig {
    /// [`Self::drain_timeout_ms`] as a duration.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: BODY_BYTES_MAX,
            debug_values: false,
            max_rows_bytes: ROWS_BYTES_MAX,
            max_reply_bytes: REPLY_BYTES_MAX,
            max_bodies_bytes: BODIES_BYTES_MAX,
            max_connections: CONNECTIONS_MAX,
            max_header_bytes: HEADER_BYTES_MAX,
            max_streams: STREAMS_MAX,
            header_timeout_ms: HEADER_TIMEOUT_MS,
            body_idle_timeout_ms: BODY_IDLE_TIMEOUT_MS,
            body_timeout_ms: BODY_TIMEOUT_MS,
            idle_timeout_ms: IDLE_TIMEOUT_MS,
            reply_idle_timeout_ms: REPLY_IDLE_TIMEOUT_MS,
            drain_timeout_ms: DRAIN_TIMEOUT_MS,
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        // The semaphore behind it counts no further.
        Ok(number @ 1..=1_000_000) => Ok(number),
        _ => Err("a number from 1 to 1000000 is needed".into()),
    }
}
