//! What all connections of a server share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::activity::Connections;
use super::budget::Budget;
use super::limits::HttpConfig;
use crate::gateway::Gateway;
use crate::metrics::Metrics;

/// How many big bodies or replies are decoded or encoded at once: a body of the most values takes about 300 MB
/// while it is decoded.
const BIG_MAX: usize = 2;

/// How many chunks of streamed replies are made at once, each on a thread that may wait for the storage.
const STREAM_CHUNKS_MAX: usize = 8;

/// How many bodies of rows that do not fit in memory are decoded at once; those that have nothing to decode do not count.
const ROWS_ARRIVING_MAX: usize = 2;

/// How many such bodies arrive at once, each with a thread; others wait in the kernel.
const ROWS_OPEN_MAX: usize = 64;

/// What all connections share.
pub(super) struct Server {
    pub(super) gateway: Gateway,
    pub(super) config: Arc<HttpConfig>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) ready: Arc<AtomicBool>,
    pub(super) shutdown: CancellationToken,
    pub(super) budget: Arc<Budget>,
    pub(super) big: Semaphore,
    pub(super) streams: Semaphore,
    pub(super) rows_arriving: Arc<Semaphore>,
    pub(super) rows_open: Semaphore,
    pub(super) connections: Connections,
    pub(super) builder: auto::Builder<TokioExecutor>,
}

impl Server {
    /// A server without connections.
    pub(super) fn new(
        gateway: Gateway,
        config: Arc<HttpConfig>,
        metrics: Arc<Metrics>,
        ready: Arc<AtomicBool>,
        shutdown: CancellationToken,
        builder: auto::Builder<TokioExecutor>,
    ) -> Self {
        Self {
            gateway,
            metrics,
            ready,
            shutdown,
            budget: Arc::new(Budget::new(config.max_bodies_bytes)),
            big: Semaphore::new(BIG_MAX),
            streams: Semaphore::new(STREAM_CHUNKS_MAX),
            rows_arriving: Arc::new(Semaphore::new(ROWS_ARRIVING_MAX)),
            rows_open: Semaphore::new(ROWS_OPEN_MAX),
            connections: Connections::default(),
            builder,
            config,
        }
    }
}
